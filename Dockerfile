# syntax=docker/dockerfile:1
# One image for a pod, a queue worker and a load-balancing endpoint of RunPod, and for any machine with an NVIDIA card.
# Always linux/amd64. docker/entrypoint.sh decides what it runs; docs/runpod.md says how to use it.
#
#   docker buildx bake                                        see docker-bake.hcl
#   docker buildx build --build-context engines=DIR .         with the baked engines of DIR in it

# With TORCH_CUDA below: one of those that the pinned torch is built for. Blackwell cards need 12.8 or newer.
ARG CUDA_VERSION=13.0.2
ARG UBUNTU_VERSION=24.04
# By its digest, without which the workflow releases no image. docs/runpod.md has the command that asks the registry for it.
ARG MEDIAMTX_IMAGE=bluenviron/mediamtx:1.20.1@sha256:1b029d11049be75630e9b73bb0d5f47b08a7db4eaee89a80bf8f53bc40e56414

# Replaced by --build-context engines=DIR; empty but for a directory otherwise.
FROM scratch AS engines
WORKDIR /.empty

# hadolint ignore=DL3029
FROM --platform=linux/amd64 ${MEDIAMTX_IMAGE} AS mediamtx

# RunPod runs nothing but linux/amd64, wherever the image is built. The smallest of NVIDIA's images: torch's wheels bring all
# of CUDA's libraries.
# hadolint ignore=DL3029
FROM --platform=linux/amd64 nvidia/cuda:${CUDA_VERSION}-base-ubuntu${UBUNTU_VERSION} AS base
ENV DEBIAN_FRONTEND=noninteractive \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PATH=/opt/venv/bin:/opt/nvidia/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 ca-certificates \
    && rm -rf /var/lib/apt/lists/*

# What the layers of Python packages are made of, each in a file: a layer is made anew when its own file changes.
FROM base AS cut
WORKDIR /cut
ARG CUDA_VERSION
ARG TORCH_CUDA=cu130
COPY constraints.txt pyproject.toml docker/layers.py ./
RUN python3 layers.py "$CUDA_VERSION" "$TORCH_CUDA" . .

FROM base AS tools
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY docker/seal.sh /usr/local/bin/
# Each layer is made in a directory that stands for the image's root, /opt included: one that COPY has to make gets a new date.
# Moved, as venv makes nothing where a link is.
RUN python3 -m venv /opt/venv \
    && mkdir -p /torch/opt \
    && mv /opt/venv /torch/opt/ \
    && ln -s /torch/opt/venv /opt/venv

# Gigabytes, the same for all releases with one torch: torch, Triton, CUDA's libraries and headers. The small packages that
# torch needs are put away again: their versions change more often.
FROM tools AS torch
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
COPY --from=cut /cut/torch.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --no-compile --requirement torch.txt \
    && pip list --format freeze | sed -E '/^(pip|torch|triton|cuda[-_]|nvidia[-_])/d; s/==.*//' \
        | xargs pip uninstall --yes \
    && seal.sh /torch

# TensorRT, for H100, H200 and B200: --build-arg TENSORRT_PACKAGE='tensorrt-cu13>=11'. Gigabytes that RTX cards have no use for.
FROM torch AS tensorrt
ARG TENSORRT_PACKAGE=
RUN --mount=type=cache,target=/root/.cache/pip \
    mkdir -p /tensorrt/opt/venv \
    && if [ -n "$TENSORRT_PACKAGE" ]; then \
        pip install --no-compile --prefix /tensorrt/opt/venv --constraint torch.txt --extra-index-url https://pypi.nvidia.com \
            "$TENSORRT_PACKAGE"; \
    fi \
    && seal.sh /tensorrt

# pip takes torch as there, and puts everything else in a directory of its own.
FROM torch AS packages
COPY constraints.txt ./
COPY --from=cut /cut/packages.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --no-compile --prefix /packages/opt/venv --constraint constraints.txt --requirement packages.txt \
    && seal.sh /packages

FROM tools AS project
COPY pyproject.toml README.md LICENSE ./
COPY sdstream ./sdstream
COPY builder ./builder
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --no-compile --prefix /project/opt/venv --no-deps . \
    && seal.sh /project

FROM base AS runtime
# g++ and the headers are for torch.compile and for engines of the compiled back end, which are C++ programs.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends \
        coturn ffmpeg g++ libc6-dev python3-dev tini util-linux \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --user-group --create-home --shell /bin/bash sdstream
# By --link a layer is what it holds, whatever lies below it. The rarest changes come first.
COPY --link --from=mediamtx /mediamtx /usr/local/bin/mediamtx
COPY --link --from=torch /torch /
COPY --link --from=tensorrt /tensorrt /
COPY --link --from=packages /packages /
COPY --link --from=project /project /
WORKDIR /opt/sdstream
COPY handler.py test_input.json ./
COPY docker ./docker
COPY --from=engines / ./engines/
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,video,utility \
    SDSTREAM_HOST=0.0.0.0 \
    RUNPOD_DEBUG_LEVEL=INFO
# HTTP, TURN, RTMP. Nothing but documentation: what can be reached, the pod or the endpoint says.
EXPOSE 8080/tcp 3478/tcp 1935/tcp
# No USER: a network volume of RunPod belongs to root, so the entrypoint gives its place to the user sdstream first, and
# runs everything as that user. Without tini's -g: SIGTERM is for the server, which needs its worker to end jobs and streams.
ENTRYPOINT ["/usr/bin/tini", "--", "/opt/sdstream/docker/entrypoint.sh"]
