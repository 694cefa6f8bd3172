# docker buildx bake                       the image, for this machine's Docker
# docker buildx bake --push                and to the registry that REGISTRY names
# docker buildx bake cuda13                for hosts with driver 580 or newer
#
# TENSORRT_PACKAGE='tensorrt-cu12>=11' before it puts TensorRT in, for H100, H200 and B200 (with cuda13: 'tensorrt-cu13>=11').

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
  targets = ["cuda12"]
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

target "cuda12" {
  inherits = ["base"]
  args = {
    CUDA_VERSION = "12.8.1"
    TORCH_CUDA   = "cu128"
  }
  tags = tags("")
}

target "cuda13" {
  inherits = ["base"]
  args = {
    CUDA_VERSION = "13.0.0"
    TORCH_CUDA   = "cu130"
  }
  tags = tags("-cuda13")
}
