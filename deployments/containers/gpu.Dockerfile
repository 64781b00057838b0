# tabvae and Prefect for workers that train on NVIDIA GPUs. From the repository's root:
#
#   docker build -f deployments/containers/gpu.Dockerfile -t tabvae:gpu .
#
# PyTorch's wheels carry CUDA themselves: the host brings the driver and NVIDIA's container toolkit, nothing else.

FROM python:3.11-slim AS wheel
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY tabvae_core tabvae_core
COPY tasks tasks
COPY flows flows
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.11-slim
# Index of PyTorch's wheels for the CUDA version that the hosts' drivers know; empty: the usual one.
ARG TORCH_INDEX=
COPY constraints.txt /tmp/constraints.txt
COPY --from=wheel /wheels /tmp/wheels
RUN pip install --no-cache-dir -c /tmp/constraints.txt ${TORCH_INDEX:+--index-url "${TORCH_INDEX}"} torch \
    && pip install --no-cache-dir -c /tmp/constraints.txt "$(ls /tmp/wheels/tabvae-*.whl)[prefect]" \
    && rm -r /tmp/wheels /tmp/constraints.txt
# What NVIDIA's toolkit gives to a container of this image.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
# /data: where a volume for local sources and workspaces is mounted, which takes up the owner.
RUN useradd --create-home --uid 1000 tabvae && install -d -o 1000 /data
USER 1000
WORKDIR /home/tabvae
# One training at a time on the GPU; the others wait in the pool.
CMD ["prefect", "worker", "start", "--pool", "gpu", "--type", "process", "--limit", "1"]
