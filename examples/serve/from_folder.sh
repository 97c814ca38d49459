#!/bin/sh
# From a folder of pictures, one subfolder per class, to a served classifier:
#   sh examples/serve/from_folder.sh FOLDER
set -e
run=runs/served/$(date +%Y%m%d-%H%M%S)
python -m project fit --config configs/finetune_folder_best.yaml --data.root "$1" --run_dir "$run"
python -m project export "$run"
MODEL="$run/export/onnx/model.onnx" exec uvicorn app:app --app-dir examples/serve
