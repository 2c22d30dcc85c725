"""How the commands of the documents are run in tests: which are shortened, which are not run, and what they print."""

FEW_STEPS = "--max-steps 2 --set validations=1 --set validation_images=20 --set batch_size=16 --promote"
ONE_DEFECT = "--images 29 --shapes spot --contrasts 128"

SHORTER = {
    # Trainings take a few steps. Models that are hardly trained are made live, as later commands use their names.
    "--max-minutes 30": FEW_STEPS,
    "--max-steps 200": FEW_STEPS,
    'parameters={"max_steps": 100}': 'parameters={"max_steps": 2, "validations": 1, "validation_images": 20}',
    "(500, 28, 28)": "(100, 28, 28)",
    # Fewer places of features.
    "--preset snf-features": "--preset snf-features --set feature_side=32",
    'preset="snf-features")': 'preset="snf-features", parameters={"feature_side": 32})',
    # One shape and contrast, on images that the model of few has not used, and a rate that these can give.
    "snf limit my-parts": f"snf limit my-parts {ONE_DEFECT} --data more-good-parts",
    "--data more-good-parts --alpha 0.005 --shapes scratch --shapes spot": "--alpha 0.05",
    # Other datasets: 70,000 images, which not every machine has, take minutes. test_evaluation.py adds graded faults.
    "-m fashion-snf-glow --normal fashion-mnist --against mnist --corruptions": (
        "-m my-parts --normal good-parts --against bad-parts --images 40"
    ),
    # 50 images give no smaller rate.
    "alpha=0.001 --watch": "alpha=0.05 --watch",
    "against=bad-parts,worse-parts": "against=bad-parts",
    # The folder of a container is the one in which the tests run.
    "/files/": "",
}
"""Part of a command as it is documented, and what is run in its place."""

ONLY_PARSED = {
    "snf recommend parts": "takes minutes; test_evaluation.py runs it on a part of the digits",
    "snf recommend parts --minutes 20 --alpha 0.005 --set image_size=64": "the same",
    "snf train --data parts --name my-parts --preset snf-glow-small --max-minutes 30": (
        "README.md has the same command without the preset, which is the default"
    ),
    "snf train --data parts --preset snf-glow-small --name parts-pixels --max-minutes 30": "the same",
    "snf evaluate -m parts-pixels --normal good-parts --against bad-parts --out pixels.html": (
        "README.md has the same command with another model of pixels"
    ),
    "snf train --data parts --preset snf-features --name my-parts-features": "features.md has the same command",
    "snf train --data parts --preset snf-features --name parts-features": "features.md has the same command",
    "snf train --data boards --preset snf-features --set fit=tiles --name boards": (
        "tests/models/features fits models of tiles"
    ),
    "snf models calibrate mnist-snf-glow --dataset mnist --precision bfloat16 --follow": (
        "a job over 10,000 images of a set that not every machine has; test_calibrations.py makes one in bfloat16"
    ),
    "snf train --data parts --preset snf-features --set backbone=my-network --name my-parts": (
        "384 channels need 1.2 GB and minutes; tests/models/features fits an own backbone with few channels"
    ),
    "snf runs compare RUN OTHER-RUN --out curves.csv": "needs ids of runs; tests/app/cli/test_runs.py compares two",
    "snf datasets refer lots-2026 s3://lots/2026": "test_datasets_by_reference.py refers to a real S3 server",
    "snf jobs submit score dataset=lots-2026 model=my-parts output=s3://lots/scores/2026 --watch": "the same",
    "snf bulk s3://lots/2026 -m my-parts --out s3://lots/scores/2026 --processes 8": "the same",
    "snf bulk s3://lots/2026 -m s3://lots/models/my-parts --out s3://lots/scores/2026": "the same",
    "SNF_RAY_ADDRESS=10.0.0.5:6379 snf bulk s3://lots/2026 -m my-parts --out s3://lots/scores/2026 --engine ray": (
        "needs a cluster; test_ray_actors.py and test_score_on_ray.py start one"
    ),
    "snf models export my-parts s3://lots/models/my-parts": "the same",
    "snf jobs submit train --file request.json max_steps=500": "takes minutes; test_command_table.py submits a file",
    "snf train --data parts --name my-parts --device cuda": "needs a GPU; tests/models/test_devices.py has a stand-in",
    "snf train --data mnist --architecture models/snf_models/zoo/mnist-snf-glow.json --name digits --max-minutes 45": (
        "takes 45 minutes of 60,000 images that not every machine has; test_run.py starts from the file"
    ),
    "torchrun --nproc-per-node 4 -m snf_app.cli.main train --data lots --device cuda": (
        "needs GPUs; tests/app/cli/test_train.py trains with two such processes, test_distributed.py starts torchrun"
    ),
    "docker compose exec api snf keys create line-1 --role score": "needs containers; security.md's keys are created",
    "docker compose run --rm api snf backbones add efficientnet-lite0": "needs containers; features.md's is run",
    'docker compose run --rm -v "$PWD:/files:ro" api snf backbones add my-network '
    "--onnx /files/network.onnx --description /files/network.json": "needs containers; features.md's is run",
}
"""Commands whose ``snf`` part is only parsed by the real command line, and why."""

NOT_RUN = {
    "git clone <this repository> && cd snf-density": "the checkout that is tested",
    "make up": "its service is that of these tests",
    ". .venv/bin/activate": "the environment that runs the tests; `make up` works without it",
    "make test": "runs this test",
    "make test-browser": "has two processes of its own, and continuous integration runs it",
    "pip install ./runtime": "`make wheels` installs it from its wheel",
    "python -m snf_runtime my-parts-edge NEW-IMAGES": "test_edge.py runs it where nothing else can be imported",
    "snf-density-runtime my-parts-edge NEW-IMAGES --json --alpha 0.001 --fail-on-anomaly": "the same",
    "docker compose up": "needs images; test_the_files_of_docker_compose checks the files",
    "docker compose up --build": "needs images; test_the_files_of_docker_compose checks the files",
    "docker compose up --scale worker=3": "needs images; test_the_files_of_docker_compose checks the files",
    "docker compose -f docker-compose.yml -f docker-compose.gpu.yml up --build": (
        "needs GPUs; test_the_files_of_docker_compose checks the files"
    ),
    "docker compose -f docker-compose.yml -f docker-compose.locations.yml up --build": (
        "needs images; test_the_files_of_docker_compose checks the files"
    ),
    "export SNF_ALLOWED_LOCATIONS=s3://lots/2026 AWS_ACCESS_KEY_ID=... AWS_SECRET_ACCESS_KEY=...": (
        "for the containers; tests/test_containers.py finds the variables in the file"
    ),
    "export PYTHON_IMAGE=python:3.13-slim@sha256:... REDIS_IMAGE=redis:8@sha256:...": (
        "for the containers; tests/test_containers.py finds both variables in the files"
    ),
    "export SNF_BACKBONES=/data/backbones": "for the containers; tests/worker/test_settings.py reads all settings",
    "examples/own_images.sh http://127.0.0.1:8000 FOLDER NAME": "test_datasets.py runs it",
    "pip install ./client": "test_client_install.py installs it",
    "python -m pip install --no-build-isolation --editable .": "test_new_bijection.py installs the files of the page",
    "snf train --data mnist-mini --architecture flow.json --name tails --max-steps 200 --promote": "in few steps there",
    "snf score IMAGES -m tails": "the same",
}
"""Commands that are not run, and why."""

PRINTS = {
    "snf score tests/data/mnist": r"36 images judged, \d+ anomal(y|ies), 0 not judged",
    "curl -s -F images=@tests/data/mnist/00027-4.png http://127.0.0.1:8000/v1/models/mnist-snf-glow/score": (
        r'"log_likelihood":-515\.77.*"bits_per_dim":.*"p_value":.*"is_anomaly":false'
    ),
    "snf score NEW-IMAGES -m my-parts --out scores.parquet": "12 images judged",
    "snf bulk NEW-IMAGES -m my-parts --out bulk-scores": "12 images judged",
    "curl -s http://127.0.0.1:8000/v2/models/mnist-snf-glow": r'"shape":\[-1,1,28,28\].*"kind":"density"',
    "curl -s http://127.0.0.1:8000/v2/models/mnist-snf-glow/infer -d @examples/infer_request.json": (
        r'"model_name":"mnist-snf-glow".*"id":"black".*"name":"p_value".*"data":\['
    ),
    "snf evaluate -m my-parts --normal good-parts --against bad-parts --out report.html": "in report.html",
    "snf score NEW-IMAGES -m my-parts --explain MAPS": "12 heat maps in MAPS",
    "snf score --dataset lots -m my-parts --out scores.parquet": "60 images judged",
    "snf limit my-parts --data more-good-parts --alpha 0.005 --shapes scratch --shapes spot --out limit.svg": "svg",
    "curl -s http://127.0.0.1:8000/v1/models/my-parts/drift": '"drift":.*"source":"line-1/left"',
    'curl -s -H "Authorization: Bearer $KEY" http://127.0.0.1:8000/v1/me': '"name":"line-1".*"role":"score"',
    "snf keys": r"line-1.*score.*active.*10000/hour",
    "snf datasets show parts": "50",
    "snf backbones show my-network": "BSD-3-Clause",
    "make help": "test-browser",
}
"""What a command prints, as a pattern, where the documents or the images determine it."""

PYTHON_PRINTS = {
    ("README.md", 0): "^-515.77.* False\n$",
    ("README.md", 1): r"^\d+\n.*\(3, 28, 28\)\n\(16, 28, 28\)\n.*'status': 'succeeded'",
    ("docs/features.md", 0): "^$",
    ("docs/edge.md", 0): r"^[01]\.\d+ (True|False) \[.*\n[01]\.\d+ (True|False) \[",
    ("client/README.md", 0): "^1.png -515.77.* False\n2.png ",
}
"""What the Python blocks of a page print, by their place among those of the page."""

PYTHON_ELSEWHERE = {
    "docs/library.md": "tests/test_library.py runs them one after the other",
    "docs/limits.md": "tests/test_library.py runs it",
    "runtime/README.md": "docs/edge.md has the same",
    "docs/inference-protocol.md": "test_foreign_clients.py runs them in the environment of the clients",
    "docs/features.md": (
        "the export of a network needs the package `onnx`; test_documents.py adds a network with the documented outputs"
    ),
}
"""Pages with Python blocks that are run by another test, or cannot be run, and why."""

DATA = {"json", "toml", ""}
"""Languages of blocks that are no commands."""
