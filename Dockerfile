# docker build -t harmony-jax .                                          for CPUs
# docker build --build-arg EXTRAS=cuda13 -t harmony-jax:cuda13 .         or cuda12; with commas: cuda13,crafter
# docker run --rm --gpus all -v "$PWD/runs:/work/runs" harmony-jax:cuda13 harmony atari100k --game=Pong
# JAX's wheels bring CUDA's libraries along: the host needs the driver and NVIDIA's container toolkit.

FROM debian:bookworm-slim AS system
# hadolint ignore=DL3008
RUN apt-get update \
  && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
    ca-certificates git make python3 python3-venv libegl1 libegl-mesa0 libgl1-mesa-dri \
  && rm -rf /var/lib/apt/lists/*

FROM system
ARG EXTRAS=
WORKDIR /opt/harmony-jax
COPY . .
# Editable, so that each run says of which commit it is.
RUN python3 -m venv /opt/venv \
  && /opt/venv/bin/pip install --no-cache-dir -c constraints/python3.11.txt -e ".${EXTRAS:+[$EXTRAS]}" \
  && git config --system --add safe.directory /opt/harmony-jax
ENV PATH=/opt/venv/bin:$PATH HOME=/tmp
WORKDIR /work
CMD ["harmony"]
