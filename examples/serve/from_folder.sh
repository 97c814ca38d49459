#!/bin/sh
# From a folder of pictures, one subfolder per class, to a served classifier; needs pip install -e
# '.[timm,export]' fastapi uvicorn python-multipart. What follows FOLDER goes to `fit`:
#   sh examples/serve/from_folder.sh FOLDER --model.weights FILE
set -e
folder=${1:?say which folder holds the pictures}
shift
python -c "import fastapi, onnxruntime, onnxscript, python_multipart, timm, uvicorn"
run=runs/served/$(date +%Y%m%d-%H%M%S)
python -m project fit --config configs/finetune_folder_best.yaml --data.root "$folder" \
    --run_dir "$run" "$@"
python -m project export "$run"
MODEL="$run/export/onnx/model.onnx" exec uvicorn app:app --app-dir examples/serve --limit-concurrency 64
