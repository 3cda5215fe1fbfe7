// Found before the toolkit's header of this name when a kernel is compiled for the CPU.
#pragma once
#include "cuda_host_shim.hpp"
