# docker buildx bake                       the image, for this machine's Docker; its hosts have driver 580 or newer
# docker buildx bake --push                and to the registry that REGISTRY names
# docker buildx bake cuda12                for hosts with driver 560 to 579: no Blackwell cards, no TensorRT-RTX
#
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

function "tags" {
  params = [suffix]
  result = ["${REGISTRY == "" ? "" : "${REGISTRY}/"}${IMAGE}:${RELEASE_VERSION}${suffix}"]
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
  tags = tags("")
}

target "cuda12" {
  inherits = ["base"]
  args = {
    CUDA_VERSION = "12.6.3"
    TORCH_CUDA   = "cu126"
  }
  tags = tags("-cuda12")
}
