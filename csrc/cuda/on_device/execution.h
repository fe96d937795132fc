// What a kernel runs on: blocks of warps of 32 lanes, on the GPU. emulated/execution.h has the same names as loops on
// the host, so that a kernel that is written in them is one source for both; the build picks the folder.
//
// A kernel is a functor, called once per block with the block's shared memory:
//   struct Kernel { static constexpr int kThreads; REPSIM_DEVICE void operator()(const Block&, unsigned char*) const;
//   };
// What every lane has its own of is a PerLane, or a PerThread where it outlives a barrier, and is touched inside of
// each_lane. Between two barriers no warp reads what another one writes.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <stdexcept>
#include <string>

#define REPSIM_DEVICE __device__ __forceinline__
#define REPSIM_DEVICE_OUT_OF_LINE inline __device__ __noinline__

namespace repsim::cuda {

constexpr int kLanes = 32;

template <class T>
struct PerLane {
  T value;
  REPSIM_DEVICE T& operator[](int) { return value; }
  REPSIM_DEVICE const T& operator[](int) const { return value; }
};

// The same for what outlives a barrier of a block of so many threads.
template <class T, int threads>
struct PerThread {
  T value;
  REPSIM_DEVICE T& operator[](int) { return value; }
};

struct Warp {
  int number;  // in its block

  template <class Work>
  REPSIM_DEVICE void each_lane(Work work) const {
    work(static_cast<int>(threadIdx.x % kLanes));
  }
  // Every lane sees what the others have written.
  REPSIM_DEVICE void sync() const { __syncwarp(); }
  // Bit l: the flag of lane l.
  REPSIM_DEVICE uint32_t ballot(const PerLane<bool>& flag) const { return __ballot_sync(0xffffffffu, flag.value); }
  // Of all lanes, in the order of the steps: each lane adds that of the lane whose number differs in that bit.
  template <class T>
  REPSIM_DEVICE T sum(const PerLane<T>& term, int a = 16, int b = 8, int c = 4, int d = 2, int e = 1) const {
    T total = term.value;
    total += __shfl_xor_sync(0xffffffffu, total, a);
    total += __shfl_xor_sync(0xffffffffu, total, b);
    total += __shfl_xor_sync(0xffffffffu, total, c);
    total += __shfl_xor_sync(0xffffffffu, total, d);
    total += __shfl_xor_sync(0xffffffffu, total, e);
    return total;
  }
  template <class T>
  REPSIM_DEVICE T of_lane(const PerLane<T>& value, int lane) const {
    return __shfl_sync(0xffffffffu, value.value, lane);
  }
};

// What a lane holds of the operands and sums of one step of a tensor core, in the order of the PTX manual.
struct Four {
  uint32_t of[4];
};
struct Sums {
  float of[4];
};

// sums += a b' of 16 x 16 and 8 x 16 bfloat16, two neighbouring ones to a word: mma.m16n8k16. With g = lane / 4 and
// t = lane % 4: a holds columns 2 t of rows g and g + 8, then columns 2 t + 8 of both; b0 and b1 columns 2 t and 2 t +
// 8 of row g; the sums columns 2 t and 2 t + 1 of row g, then of row g + 8.
template <class SumsOf>
REPSIM_DEVICE void multiply_add(const Warp&, const PerLane<Four>& a, const PerLane<uint32_t>& b0,
                                const PerLane<uint32_t>& b1, SumsOf sums_of) {
  Sums& s = sums_of(static_cast<int>(threadIdx.x % kLanes));
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(s.of[0]), "+f"(s.of[1]), "+f"(s.of[2]), "+f"(s.of[3])
      : "r"(a.value.of[0]), "r"(a.value.of[1]), "r"(a.value.of[2]), "r"(a.value.of[3]), "r"(b0.value), "r"(b1.value));
}

struct Block {
  REPSIM_DEVICE int64_t index() const { return blockIdx.x; }
  template <class Work>
  REPSIM_DEVICE void each_warp(Work work) const {
    work(Warp{static_cast<int>(threadIdx.x / kLanes)});
  }
  REPSIM_DEVICE void barrier() const { __syncthreads(); }
};

// Adds in one piece; returns what was there.
REPSIM_DEVICE int64_t atomic_add(int64_t* to, int64_t term) {
  return static_cast<int64_t>(
      atomicAdd(reinterpret_cast<unsigned long long*>(to), static_cast<unsigned long long>(term)));
}

REPSIM_DEVICE uint32_t bits_of(float x) { return __float_as_uint(x); }
REPSIM_DEVICE float float_of(uint32_t bits) { return __uint_as_float(bits); }
REPSIM_DEVICE int count_bits_of(uint32_t mask) { return __popc(mask); }
REPSIM_DEVICE int lowest_bit_of(uint32_t mask) { return __ffs(mask) - 1; }

template <class Kernel>
__global__ void __launch_bounds__(Kernel::kThreads, Kernel::kResident) run(const __grid_constant__ Kernel kernel) {
  extern __shared__ __align__(16) unsigned char shared[];
  kernel(Block{}, shared);
}

constexpr size_t kMostShared = 48 << 10;  // bytes that every GPU gives without asking

// Queues a kernel on a stream of the current device. Waits for nothing.
template <class Kernel>
void launch(const Kernel& kernel, int64_t blocks, size_t shared_bytes, void* stream) {
  if (blocks == 0) return;
  if (blocks > INT32_MAX || shared_bytes > kMostShared)
    throw std::invalid_argument("launch: expected at most 2^31 - 1 blocks and 48 KiB of shared memory");
  run<<<static_cast<unsigned>(blocks), Kernel::kThreads, shared_bytes, static_cast<cudaStream_t>(stream)>>>(kernel);
  const cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess) throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(error));
}

// Makes a device the current one of this thread, for this copy of the CUDA runtime too.
inline void use_device(int number) {
  const cudaError_t error = cudaSetDevice(number);
  if (error != cudaSuccess) throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(error));
}

// How many GPUs the driver shows; 0 without a driver.
inline int count_devices() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) {
    cudaGetLastError();  // the error would otherwise be found by whoever asks next
    return 0;
  }
  return count;
}

}  // namespace repsim::cuda
