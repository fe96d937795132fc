// The one dtype switch of the core: every element is read as the float64 that equals it.
#pragma once

#include <cstdint>
#include <cstring>
#include <stdexcept>

#include "host_device.h"
#include "ops.h"

namespace repsim {

struct Half {
  uint16_t bits;
};
struct BFloat {
  uint16_t bits;
};

REPSIM_HOST_DEVICE inline double widen(double x) { return x; }
REPSIM_HOST_DEVICE inline double widen(float x) { return x; }

REPSIM_HOST_DEVICE inline double widen(BFloat x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

REPSIM_HOST_DEVICE inline double widen(Half x) {
  const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000) << 16;
  const uint32_t rest = x.bits & 0x7fff;
  // Moved into float32's fields the exponent is short by 127 - 15: one exact multiplication mends normal and subnormal
  // alike.
  uint32_t bits = rest << 13;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  value *= 0x1p112f;
  std::memcpy(&bits, &value, sizeof value);
  if (rest >= 0x7c00) bits |= 0x7f800000;  // infinity and NaN keep their exponent of ones
  bits |= sign;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// Calls use(pointer to the typed elements).
template <class Use>
auto with_elements(const Source& x, Use use) {
  switch (x.dtype) {
    case DType::float16:
      return use(static_cast<const Half*>(x.data));
    case DType::bfloat16:
      return use(static_cast<const BFloat*>(x.data));
    case DType::float32:
      return use(static_cast<const float*>(x.data));
    case DType::float64:
      return use(static_cast<const double*>(x.data));
  }
  throw std::invalid_argument("dtype: expected float16, bfloat16, float32 or float64");
}

inline int64_t bytes_of(DType dtype) {
  constexpr int64_t bytes[] = {2, 2, 4, 8};
  return bytes[static_cast<int>(dtype)];
}

// The first element of row i.
inline const void* row_of(const Source& x, int64_t i) {
  return static_cast<const char*>(x.data) + i * x.row_stride * bytes_of(x.dtype);
}

}  // namespace repsim
