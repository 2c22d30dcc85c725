#!/usr/bin/env bash
# Upload a folder of images, train and calibrate a model on it, and score with it, by curl alone.
#
#   examples/own_images.sh URL FOLDER NAME [PRESET] [STEPS] [MINUTES]
#
#   URL      address of the service, such as http://127.0.0.1:8000
#   FOLDER   PNG, JPEG, WebP, BMP, TIFF or GIF files; images of one subfolder stay in one part of the split
#   NAME     name of the dataset and of the model: a-z 0-9 . _ -
#   PRESET   default snf-glow-small
#   STEPS    training steps at most, default 600
#   MINUTES  minutes of training at most, default 10
#
# SNF_API_KEY: API key, if the service needs one.

set -euo pipefail
export LC_ALL=C # numbers have points

if (($# < 3 || $# > 6)); then
  sed -n '2,13s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
url=${1%/} folder=$2 name=$3 preset=${4:-snf-glow-small} steps=${5:-600} minutes=${6:-10}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
answer=$work/answer.json

fail() {
  echo "own_images: $*" >&2
  exit 1
}

# Make a call and write its response to $answer. An error of the service ends the script with its message.
call() {
  local status
  status=$(curl --silent --show-error --output "$answer" --write-out '%{http_code}' \
    ${SNF_API_KEY:+--header "X-API-Key: $SNF_API_KEY"} "$@") || fail "$url does not answer"
  [[ $status == 2* ]] || fail "the service answered $status: $(value title): $(value detail)"
}

# The first value of this name in $answer, without its quotes.
value() {
  grep -oE "\"$1\":(\"([^\"\\\\]|\\\\.)*\"|\[[^]]*\]|\{[^}]*\}|[^],}]*)" "$answer" | head -n 1 |
    cut -d : -f 2- |
    sed -e 's/^"//' -e 's/"$//' || true
}

# Print a number with this many decimals, or a dash if there is none yet.
number() {
  local found
  found=$(value "$1")
  if [[ $found == [-0-9]* ]]; then printf "%.$2f" "$found"; else printf -- -; fi
}

[[ -d $folder ]] || fail "$folder is no folder"

echo "1. Upload $folder as dataset $name"
# COPYFILE_DISABLE: tar on macOS adds no metadata files.
COPYFILE_DISABLE=1 tar -C "$folder" -cf "$work/images.tar" .
call --form "name=$name" --form "file=@$work/images.tar" "$url/v1/datasets"
echo "   $(value images) images ($(value train) train, $(value statistics) statistics, $(value calibration) calibration, $(value folds) folds)"
echo "   model input $(value image_shape) (channels, height, width)"
echo "   rejected: $(value rejected) $(value rejected_by), formats: $(value formats)"
echo "   notes: $(value notes)"
echo "   contact sheet: $url$(value contact_sheet)"

job=$(printf '{"type": "train", "dataset": "%s", "model": "%s", "preset": "%s", "promote": true,
  "parameters": {"max_steps": %s, "max_minutes": %s}}' "$name" "$name" "$preset" "$steps" "$minutes")
json=(--header 'Content-Type: application/json' --data "$job")

echo "2. Estimate"
call "${json[@]}" "$url/v1/jobs/estimate"
echo "   $(number seconds 0) s, $(number memory_bytes 0) bytes of memory (-: unknown until it runs)"
echo "   $(value workers) workers, $(value waiting) jobs before this one"

echo "3. Train with $preset, at most $steps steps and $minutes minutes"
call "${json[@]}" "$url/v1/jobs"
id=$(value id)
echo "   job $id"
said=
while :; do
  call "$url/v1/jobs/$id"
  status=$(value status)
  line="   $status"
  [[ $status != running ]] ||
    line+=", step $(number step 0) of $(number steps 0), $(number bits_per_dim 3) bits/dim, $(number eta_seconds 0) s left"
  [[ $line == "$said" ]] || echo "$line"
  said=$line
  case $status in
    succeeded) break ;;
    failed | cancelled | paused) fail "job $id is $status: $(value detail)" ;;
  esac
  sleep 2
done
ref=$(value ref)

echo "4. Score one image with $ref"
image=$(find "$folder" -type f \( -iname '*.png' -o -iname '*.jpg' -o -iname '*.jpeg' -o -iname '*.webp' -o -iname '*.bmp' \
  -o -iname '*.tif' -o -iname '*.tiff' -o -iname '*.gif' \) |
  sort | sed -n 1p) # which reads to the end: a broken pipe would end the script
[[ -n $image ]] || fail "no image in $folder has a usual name"
cp "$image" "$work/image"
call --form "images=@$work/image;filename=one" "$url/v1/models/$ref/score"
echo "   $image: log-likelihood $(number log_likelihood 1) nats, $(number bits_per_dim 3) bits/dim"
echo "   p-value $(number p_value 4), anomaly at alpha $(number alpha 4): $(value is_anomaly)"
echo
echo "Score more: curl -F images=@FILE $url/v1/models/$ref/score"
