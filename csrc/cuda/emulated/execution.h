// The names of on_device/execution.h as loops on the host: the same kernels, one lane after the other. For tests on
// machines without a GPU; nothing that is installed contains it.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <vector>

#define REPSIM_DEVICE inline
#define REPSIM_DEVICE_OUT_OF_LINE inline

namespace repsim::cuda {

constexpr int kLanes = 32;

template <class T>
struct PerLane {
  T values[kLanes];
  T& operator[](int lane) { return values[lane]; }
  const T& operator[](int lane) const { return values[lane]; }
};

template <class T, int threads>
struct PerThread {
  T values[threads];
  T& operator[](int thread) { return values[thread]; }
};

struct Warp {
  int number;

  template <class Work>
  void each_lane(Work work) const {
    for (int lane = 0; lane < kLanes; ++lane) work(lane);
  }
  void sync() const {}
  uint32_t ballot(const PerLane<bool>& flag) const {
    uint32_t mask = 0;
    for (int lane = 0; lane < kLanes; ++lane) mask |= static_cast<uint32_t>(flag[lane]) << lane;
    return mask;
  }
  template <class T>
  T sum(const PerLane<T>& term, int a = 16, int b = 8, int c = 4, int d = 2, int e = 1) const {
    PerLane<T> total = term;
    for (const int step : {a, b, c, d, e}) {
      const PerLane<T> before = total;
      for (int lane = 0; lane < kLanes; ++lane) total[lane] = before[lane] + before[lane ^ step];
    }
    return total[0];
  }
  template <class T>
  T of_lane(const PerLane<T>& value, int lane) const {
    return value[lane];
  }
};

struct Four {
  uint32_t of[4];
};
struct Sums {
  float of[4];
};

// As on_device/execution.h says, with the sums of a step in float64.
template <class SumsOf>
void multiply_add(const Warp&, const PerLane<Four>& a, const PerLane<uint32_t>& b0, const PerLane<uint32_t>& b1,
                  SumsOf sums_of) {
  const auto half = [](uint32_t word, int which) {  // the first of two is in the lower half
    const uint32_t bits = which ? word & 0xffff0000u : word << 16;
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return static_cast<double>(x);
  };
  double left[16][16], right[8][16];
  for (int lane = 0; lane < kLanes; ++lane)
    for (int which = 0; which < 2; ++which) {
      const int g = lane / 4, k = lane % 4 * 2 + which;
      for (int part = 0; part < 4; ++part) left[g + part % 2 * 8][k + part / 2 * 8] = half(a[lane].of[part], which);
      right[g][k] = half(b0[lane], which);
      right[g][k + 8] = half(b1[lane], which);
    }
  for (int lane = 0; lane < kLanes; ++lane)
    for (int part = 0; part < 4; ++part) {
      double sum = sums_of(lane).of[part];
      for (int k = 0; k < 16; ++k) sum += left[lane / 4 + part / 2 * 8][k] * right[lane % 4 * 2 + part % 2][k];
      sums_of(lane).of[part] = static_cast<float>(sum);
    }
}

class Block {
 public:
  Block(int64_t index, int warps) : index_(index), warps_(warps) {}
  int64_t index() const { return index_; }
  template <class Work>
  void each_warp(Work work) const {
    for (int number = 0; number < warps_; ++number) work(Warp{number});
  }
  void barrier() const {}

 private:
  int64_t index_;
  int warps_;
};

inline int64_t atomic_add(int64_t* to, int64_t term) {
  const int64_t before = *to;
  *to = static_cast<int64_t>(static_cast<uint64_t>(before) + static_cast<uint64_t>(term));
  return before;
}

inline uint32_t bits_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}
inline float float_of(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}
inline int count_bits_of(uint32_t mask) { return __builtin_popcount(mask); }
inline int lowest_bit_of(uint32_t mask) { return __builtin_ctz(mask); }

constexpr size_t kMostShared = 48 << 10;

template <class Kernel>
void launch(const Kernel& kernel, int64_t blocks, size_t shared_bytes, void*) {
  if (blocks > INT32_MAX || shared_bytes > kMostShared)
    throw std::invalid_argument("launch: expected at most 2^31 - 1 blocks and 48 KiB of shared memory");
  std::vector<std::max_align_t> shared(shared_bytes / sizeof(std::max_align_t) + 1);
  for (int64_t block = 0; block < blocks; ++block) {
    std::memset(shared.data(), 0xff, shared.size() * sizeof(std::max_align_t));  // what nobody wrote is a NaN
    kernel(Block(block, Kernel::kThreads / kLanes), reinterpret_cast<unsigned char*>(shared.data()));
  }
}

inline void use_device(int) {}

inline int count_devices() { return 0; }

}  // namespace repsim::cuda
