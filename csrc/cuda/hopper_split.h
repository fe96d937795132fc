// Numbers as sums of bfloat16 parts, and the products of parts that stand for a product of numbers.
#pragma once

#include <cstdint>
#include <cstring>

#include "../host_device.h"

namespace repsim::cuda::hopper {

constexpr int kMostParts = 3;
constexpr int kMostProducts = 6;

// medium: the first part alone, a product off by at most 2^-6.9 of its size. high: x = a + b, without bb, 2^-14.4.
// highest: x = a + b + c, without bc, cb and cc, 2^-22.4. The sums of float32 come on top.
enum class Precision : int { medium, high, highest };

// Small products come first, so that they are not lost beside the large ones.
struct Products {
  int count, parts;
  uint8_t left[kMostProducts], right[kMostProducts];
};

REPSIM_HOST_DEVICE constexpr Products products_of(Precision precision) {
  switch (precision) {
    case Precision::medium:
      return {1, 1, {0}, {0}};
    case Precision::high:
      return {3, 2, {1, 0, 0}, {0, 1, 0}};
    default:
      return {6, 3, {2, 1, 0, 1, 0, 0}, {0, 1, 2, 0, 1, 0}};
  }
}

// The nearest bfloat16, ties to even, for numbers whose bfloat16 is finite.
REPSIM_HOST_DEVICE inline uint16_t to_bfloat16(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

REPSIM_HOST_DEVICE inline float from_bfloat16(uint16_t x) {
  const uint32_t bits = static_cast<uint32_t>(x) << 16;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

// Takes the next part of x away from it; the remainder is exact.
REPSIM_HOST_DEVICE inline uint16_t take_part(float& x) {
  const uint16_t part = to_bfloat16(x);
  x -= from_bfloat16(part);
  return part;
}

}  // namespace repsim::cuda::hopper
