# `docker build .` makes the image for processors, `docker build --target cuda .` the one for NVIDIA
# GPUs. Both run as a numeric user on a read-only root file system; docs/deployment.md has the rest.
ARG PYTHON_IMAGE=python:3.11-slim

# What the project needs, without the project: this changes only when a dependency does.
FROM ${PYTHON_IMAGE} AS requirements
ARG EXTRAS=
COPY pyproject.toml /
RUN python3 -c "import tomllib; p = tomllib.load(open('/pyproject.toml', 'rb'))['project']; \
extras = [each for each in '${EXTRAS}'.split(',') if each]; \
lists = [p['dependencies'], *(p['optional-dependencies'][each] for each in extras)]; \
print(*sorted(each for some in lists for each in some), sep='\n')" > /requirements.txt

# /opt/tandem is what the image runs; what it is built with is in /opt/build, and stays behind.
FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
COPY constraints.txt /
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m venv --without-pip /opt/tandem \
    && python3 -m venv /opt/build \
    && /opt/build/bin/pip install --quiet "$(grep '^pip==' /constraints.txt)" \
    && /opt/build/bin/pip install --quiet --constraint /constraints.txt hatchling uv

# torch for processors: from the index that TORCH_INDEX_URL names; else from pip's own settings; and
# where those would give a build with the CUDA libraries, from where uv knows one without.
FROM build AS torch-cpu
ARG TORCH_INDEX_URL=
RUN --mount=type=cache,target=/root/.cache/pip \
    torch="$(grep '^torch==' /constraints.txt)"; \
    pip="/opt/build/bin/pip --python /opt/tandem/bin/python install --quiet --no-deps"; \
    if [ -n "$TORCH_INDEX_URL" ]; then \
        $pip --index-url "$TORCH_INDEX_URL" "$torch"; \
    elif $pip --dry-run --report - "$torch" | grep --quiet --extended-regexp '^ *"(nvidia|cuda)-'; then \
        /opt/build/bin/uv pip install --python /opt/tandem/bin/python --no-cache --no-deps \
            --torch-backend cpu "$torch"; \
    else \
        $pip "$torch"; \
    fi

FROM build AS torch-cuda
ARG TORCH_INDEX_URL=
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/build/bin/pip --python /opt/tandem/bin/python install --quiet \
        --constraint /constraints.txt ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} torch

FROM torch-cpu AS packages-cpu
COPY --from=requirements /requirements.txt /
COPY deployment/image/packages.sh /
RUN --mount=type=cache,target=/root/.cache/pip /packages.sh cpu

FROM torch-cuda AS packages-cuda
COPY --from=requirements /requirements.txt /
COPY deployment/image/packages.sh /
RUN --mount=type=cache,target=/root/.cache/pip /packages.sh cuda

# Triton, which torch for CUDA brings along, compiles one module in C when it first meets a GPU. The
# image has no compiler: the module is compiled here.
FROM build AS triton
RUN apt-get update --quiet=2 \
    && apt-get install --quiet=2 --yes --no-install-recommends gcc libc6-dev \
    # Python's headers: where the base has none, its Python is that of the distribution.
    && { test -e "$(python3 -c 'import sysconfig; print(sysconfig.get_config_h_filename())')" \
        || apt-get install --quiet=2 --yes --no-install-recommends python3-dev; }
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/build/bin/pip install --quiet --no-deps --constraint /constraints.txt --target /triton triton
COPY deployment/image/triton_module.sh deployment/image/cc.sh /opt/triton/
RUN /opt/triton/triton_module.sh /triton/triton /opt/triton

# The project itself, and apart from it the shipped checkpoints, which change seldom.
FROM build AS code
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY model_core model_core
COPY app app
RUN /opt/build/bin/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir /wheels . \
    && /opt/build/bin/pip --python /opt/tandem/bin/python install --quiet --no-deps \
        --target /code /wheels/*.whl \
    && mv /code/app/checkpoints /checkpoints

# A bill of materials of what the image for processors runs: `make sbom`.
FROM packages-cpu AS make-sbom
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/build/bin/pip install --quiet --constraint /constraints.txt cyclonedx-bom
COPY --from=code /code /code
COPY deployment/image/sbom.py pyproject.toml /
RUN PYTHONPATH=/code /opt/build/bin/cyclonedx-py environment --pyproject /pyproject.toml \
        --output-file /packages.json /opt/tandem/bin/python \
    && /opt/build/bin/python /sbom.py /packages.json > /tandem.cdx.json

FROM scratch AS sbom
COPY --from=make-sbom /tandem.cdx.json /

FROM ${PYTHON_IMAGE} AS runtime
# Libraries ask for the name and the home of their user.
RUN echo "tandem:x:10001:10001::/tmp:/usr/sbin/nologin" >> /etc/passwd \
    && install --directory --owner 10001 --group 10001 /cache /cache/huggingface
ENV PATH=/app/bin:/opt/tandem/bin:$PATH \
    PYTHONPATH=/app \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    OMP_WAIT_POLICY=passive \
    HF_HOME=/cache/huggingface \
    TANDEM_HOST=0.0.0.0
WORKDIR /app
USER 10001:10001
VOLUME ["/cache", "/tmp"]
EXPOSE 8000
STOPSIGNAL SIGTERM
# The server listens once its checkpoints are loaded; the first start may download them.
HEALTHCHECK --interval=5s --timeout=5s --start-period=15m --retries=6 \
    CMD ["python", "-m", "app.healthcheck"]
ENTRYPOINT ["tandem"]
CMD ["serve"]
LABEL org.opencontainers.image.title="Tandem" \
    org.opencontainers.image.description="A production server for Hugging Face encoder-decoder models" \
    org.opencontainers.image.licenses="Apache-2.0"

# What changes most often comes last: after a change of the code only the last layer is new.
FROM runtime AS cuda
ARG VERSION=unknown REVISION=unknown CREATED=unknown
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    CC=/opt/triton/cc.sh \
    TRITON_CACHE_DIR=/cache/triton
COPY --from=triton /opt/triton /opt/triton
COPY --from=packages-cuda /opt/tandem /opt/tandem
COPY --from=code /checkpoints /app/app/checkpoints
COPY --from=code /code /app
LABEL org.opencontainers.image.version=$VERSION \
    org.opencontainers.image.revision=$REVISION \
    org.opencontainers.image.created=$CREATED

FROM runtime AS cpu
ARG VERSION=unknown REVISION=unknown CREATED=unknown
COPY --from=packages-cpu /opt/tandem /opt/tandem
COPY --from=code /checkpoints /app/app/checkpoints
COPY --from=code /code /app
LABEL org.opencontainers.image.version=$VERSION \
    org.opencontainers.image.revision=$REVISION \
    org.opencontainers.image.created=$CREATED
