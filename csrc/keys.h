// Scores with their columns in 64 bits that order as they do.
#pragma once

#include <cstdint>
#include <cstring>

#include "host_device.h"

namespace repsim {

// Larger is better: the score's bits in an order-preserving form, then the lower index.
REPSIM_HOST_DEVICE inline uint64_t make_key(float score, int64_t index) {
  score += 0.0f;  // -0 and +0 are one score
  uint32_t bits;
  std::memcpy(&bits, &score, sizeof bits);
  bits = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return static_cast<uint64_t>(bits) << 32 | (0xffffffffu - static_cast<uint32_t>(index));
}

REPSIM_HOST_DEVICE inline int64_t key_index(uint64_t key) { return 0xffffffffu - static_cast<uint32_t>(key); }

REPSIM_HOST_DEVICE inline float key_score(uint64_t key) {
  uint32_t bits = static_cast<uint32_t>(key >> 32);
  bits = bits & 0x80000000u ? bits & 0x7fffffffu : ~bits;
  float score;
  std::memcpy(&score, &bits, sizeof score);
  return score;
}

}  // namespace repsim
