# docker build -t project . && mkdir -p runs
# docker run --rm --gpus all -v "$PWD/runs:/app/runs" project fit --config configs/quickstart.yaml
#
# The wheels of torch bring CUDA along; the host needs its driver only. For a small image without
# CUDA: --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu
FROM python:3.12-slim

ARG TORCH_INDEX=""
ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1 MPLCONFIGDIR=/tmp/matplotlib
RUN useradd --create-home --uid 1000 project
WORKDIR /app

COPY pyproject.toml README.md LICENSE ./
COPY project project
RUN pip install ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} '.[timm]'
COPY configs configs
RUN mkdir -p runs data cache && chown project runs data cache

USER project
ENTRYPOINT ["python", "-m", "project"]
CMD ["--help"]
