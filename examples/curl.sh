#!/usr/bin/env bash
# Tour of the service by curl alone: scores, heat map, samples, dataset, job and its events. Python only reads JSON.
#
#   examples/curl.sh [URL] [FOLDER] [NAME] [STEPS]
#
#   URL      address of the service, default http://127.0.0.1:8000
#   FOLDER   PNG files of 28x28 pixels, default tests/data/mnist
#   NAME     name of the new dataset and model, default curl-tour
#   STEPS    training steps, default 50
#
# heat_map.png and samples.png go into a new temporary folder. SNF_API_KEY: API key, if the service needs one.

set -euo pipefail
url=${1:-http://127.0.0.1:8000} folder=${2:-$(dirname "$0")/../tests/data/mnist} name=${3:-curl-tour} steps=${4:-50}
model=$url/v1/models/mnist-snf-glow
images=("$folder"/*.png)
pictures=$(mktemp -d)

answer=$(mktemp)
trap 'rm -f "$answer"' EXIT

# Make a call and write its response to $answer. An error of the service ends the script with its message.
call() {
  curl --silent --show-error --fail-with-body --output "$answer" \
    ${SNF_API_KEY:+--header "X-API-Key: $SNF_API_KEY"} "$@" || {
    cat "$answer" >&2
    exit 1
  }
}

# Print the value of $answer at a path such as results.0.anomaly.p_value.
pick() {
  python3 -c '
import functools, json, sys
step = lambda value, name: value[int(name) if isinstance(value, list) else name]
print(functools.reduce(step, sys.argv[1].split("."), json.load(sys.stdin)))' "$1" < "$answer"
}

echo "1. Score two images in one request"
call --form "images=@${images[0]}" --form "images=@${images[1]}" "$model/score"
for i in 0 1; do
  echo "   $(pick results.$i.filename): $(pick results.$i.log_likelihood) nats, p-value $(pick results.$i.anomaly.p_value)," \
    "anomaly: $(pick results.$i.anomaly.is_anomaly), $(pick results.$i.anomaly.reasons.0.text)"
done

echo "2. Explain: where the image is unusual"
call --header 'Content-Type: image/png' --data-binary "@${images[0]}" "$model/score?explain=true"
pick results.0.heat_map.png | python3 -m base64 -d > "$pictures/heat_map.png"
echo "   $pictures/heat_map.png, deviations from $(pick results.0.heat_map.lowest_z) to $(pick results.0.heat_map.highest_z)"

echo "3. Samples: the same seed gives the same picture"
call "$model/samples?n=64&seed=1"
cp "$answer" "$pictures/samples.png"
echo "   $pictures/samples.png"

echo "4. Upload $folder as a dataset"
form=(--form "name=$name")
for image in "${images[@]}"; do form+=(--form "file=@$image"); done
call "${form[@]}" "$url/v1/datasets"
echo "   $(pick images) images, $(pick train) to train on"

echo "5. Submit a job that trains a model on it"
call --header 'Content-Type: application/json' "$url/v1/jobs" --data @- << EOF
{"type": "train", "dataset": "$name", "model": "$name", "preset": "snf-glow-tiny", "promote": true,
 "parameters": {"max_steps": $steps}}
EOF
job=$(pick id)
echo "   job $job"

echo "6. Follow its events until it is finished"
curl --silent --show-error --fail --no-buffer ${SNF_API_KEY:+--header "X-API-Key: $SNF_API_KEY"} "$url/v1/jobs/$job/events" |
  sed -n -e 's/^event: /   /p' -e 's/^data: /      /p' | cut -c 1-120
call "$url/v1/jobs/$job"
echo "   $(pick status)"

echo "7. Score with the new model"
call --form "images=@${images[0]}" "$url/v1/models/$name/score"
echo "   p-value $(pick results.0.anomaly.p_value), $(pick count) image"
