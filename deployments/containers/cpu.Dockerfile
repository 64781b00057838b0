# tabvae and Prefect for workers and their runs, without a GPU. From the repository's root:
#
#   docker build -f deployments/containers/cpu.Dockerfile -t tabvae:cpu --build-arg TORCH_INDEX=... .
#
# constraints.txt makes it the set of versions that was tested.

FROM python:3.11-slim AS wheel
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY tabvae_core tabvae_core
COPY tasks tasks
COPY flows flows
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.11-slim
# Index of PyTorch's CPU wheels; empty: the usual one, whose wheels bring CUDA and are several gigabytes larger.
ARG TORCH_INDEX=
COPY constraints.txt /tmp/constraints.txt
COPY --from=wheel /wheels /tmp/wheels
RUN pip install --no-cache-dir -c /tmp/constraints.txt ${TORCH_INDEX:+--index-url "${TORCH_INDEX}"} torch \
    && pip install --no-cache-dir -c /tmp/constraints.txt "$(ls /tmp/wheels/tabvae-*.whl)[prefect]" \
    && rm -r /tmp/wheels /tmp/constraints.txt
# /data: where a volume for local sources and workspaces is mounted, which takes up the owner.
RUN useradd --create-home --uid 1000 tabvae && install -d -o 1000 /data
USER 1000
WORKDIR /home/tabvae
# A worker of another type needs its library as well, such as `pip install prefect-kubernetes`.
CMD ["prefect", "worker", "start", "--pool", "cpu", "--type", "process"]
