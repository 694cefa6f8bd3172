# docker buildx bake                       the image, for this machine's Docker; its hosts have driver 580 or newer
# docker buildx bake --push                and to the registry that REGISTRY names
# docker buildx bake cuda12                for hosts with driver 560 to 579: no Blackwell cards, no TensorRT-RTX
#
# KEEP_CACHE=yes before it leaves in REGISTRY, beside the image, which layers came of what: later builds take those that they
# would make the same, on whatever machine. For builders other than Docker's own (docker buildx create --use).
# TENSORRT_PACKAGE='tensorrt-cu13>=11' before it puts TensorRT in, for H100, H200 and B200 (with cuda12: 'tensorrt-cu12>=11').

variable "REGISTRY" {
  default = ""
}

variable "IMAGE" {
  default = "sdstream"
}

variable "RELEASE_VERSION" {
  default = "dev"
}

variable "TENSORRT_PACKAGE" {
  default = ""
}

variable "KEEP_CACHE" {
  default = ""
}

function "tags" {
  params = [suffix]
  result = ["${REGISTRY == "" ? "" : "${REGISTRY}/"}${IMAGE}:${RELEASE_VERSION}${suffix}"]
}

function "cache_from" {
  params = [build]
  result = REGISTRY == "" ? [] : ["type=registry,ref=${REGISTRY}/${IMAGE}:cache-${build}"]
}

# mode=min: the layers of the image. Those of the stages before it are as quickly installed as pulled, and twice the gigabytes.
function "cache_to" {
  params = [build]
  result = REGISTRY == "" || KEEP_CACHE == "" ? [] : ["type=registry,ref=${REGISTRY}/${IMAGE}:cache-${build},mode=min"]
}

group "default" {
  targets = ["cuda13"]
}

target "base" {
  context    = "."
  dockerfile = "Dockerfile"
  target     = "runtime"
  platforms  = ["linux/amd64"]
  args = {
    TENSORRT_PACKAGE = TENSORRT_PACKAGE
  }
}

target "cuda13" {
  inherits = ["base"]
  args = {
    CUDA_VERSION = "13.0.2"
    TORCH_CUDA   = "cu130"
  }
  cache-from = cache_from("cu130")
  cache-to   = cache_to("cu130")
  tags = tags("")
}

target "cuda12" {
  inherits = ["base"]
  args = {
    CUDA_VERSION = "12.6.3"
    TORCH_CUDA   = "cu126"
  }
  cache-from = cache_from("cu126")
  cache-to   = cache_to("cu126")
  tags = tags("-cuda12")
}
