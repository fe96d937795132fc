// Marks what both the CPU and the CUDA operations call.
#pragma once

#ifdef __CUDACC__
#define REPSIM_HOST_DEVICE __host__ __device__
#else
#define REPSIM_HOST_DEVICE
#endif
