// Exact scores and packing, a row at a time. Parallel axis: none. Bytes: the rows once.
//
// Compiled once per instruction set, like tiles.cpp: internal linkage, no standard templates. Vectors are always of 8
// doubles, which the compiler cuts to what the instruction set has, and contraction is off (see CMakeLists.txt).
#include "row_ops.h"

#ifdef __AVX512F__
#include <immintrin.h>
#endif

namespace repsim::cpu::REPSIM_ISA {
namespace {

constexpr int64_t kLanes = 8, kChains = 4, kStep = kLanes * kChains;
using Doubles = double __attribute__((vector_size(64)));
using Floats = float __attribute__((vector_size(32)));
using Words = uint32_t __attribute__((vector_size(32)));
using Shorts = uint16_t __attribute__((vector_size(16)));

struct Half {
  uint16_t bits;
};
struct BFloat {
  uint16_t bits;
};

template <class Vector, class T>
inline Vector load(const T* p) {
  Vector v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

// GCC 12 converts vectors in halves that it takes apart and puts together again. The mask of all lanes costs nothing
// and keeps it from warning of its own header (its bug 105593).
#ifdef __AVX512F__
inline Doubles to_doubles(Floats v) { return _mm512_maskz_cvtps_pd(0xff, v); }
inline Floats to_floats(Doubles v) { return _mm512_maskz_cvtpd_ps(0xff, v); }
#else
inline Doubles to_doubles(Floats v) { return __builtin_convertvector(v, Doubles); }
inline Floats to_floats(Doubles v) { return __builtin_convertvector(v, Floats); }
#endif

// 8 elements as the float64 that equal them; element.h says how.
inline Doubles widen(const double* p) { return load<Doubles>(p); }
inline Doubles widen(const float* p) { return to_doubles(load<Floats>(p)); }
inline Doubles widen(const BFloat* p) {
  const Words bits = __builtin_convertvector(load<Shorts>(p), Words) << 16;
  return to_doubles(reinterpret_cast<Floats>(bits));
}
inline Doubles widen(const Half* p) {
  const Words all = __builtin_convertvector(load<Shorts>(p), Words);
  const Words rest = all & 0x7fff;
  Words bits = reinterpret_cast<Words>(reinterpret_cast<Floats>(rest << 13) * 0x1p112f);
  bits |= reinterpret_cast<Words>(rest >= 0x7c00) & 0x7f800000;
  return to_doubles(reinterpret_cast<Floats>(bits | (all & 0x8000) << 16));
}

inline double total(const Doubles (&sum)[kChains]) {
  const Doubles both = (sum[0] + sum[1]) + (sum[2] + sum[3]);
  return ((both[0] + both[1]) + (both[2] + both[3])) + ((both[4] + both[5]) + (both[6] + both[7]));
}

struct Product {
  static Doubles add(Doubles sum, Doubles u, Doubles v) { return sum + u * v; }
};
struct SquaredDifference {
  static Doubles add(Doubles sum, Doubles u, Doubles v) { return sum + (u - v) * (u - v); }
};

template <class Term, class T>
double sum_over(const double* a, const void* row, int64_t depth) {
  const T* b = static_cast<const T*>(row);
  Doubles sum[kChains] = {};
  int64_t k = 0;
  for (; k + kStep <= depth; k += kStep)
    for (int64_t c = 0; c < kChains; ++c)
      sum[c] = Term::add(sum[c], load<Doubles>(a + k + c * kLanes), widen(b + k + c * kLanes));
  if (k < depth) {
    double last_a[kStep] = {};
    T last_b[kStep] = {};
    __builtin_memcpy(last_a, a + k, (depth - k) * sizeof(double));
    __builtin_memcpy(last_b, b + k, (depth - k) * sizeof(T));
    for (int64_t c = 0; c < kChains; ++c)
      sum[c] = Term::add(sum[c], load<Doubles>(last_a + c * kLanes), widen(last_b + c * kLanes));
  }
  return total(sum);
}

template <class T>
void widen_row(const void* row, int64_t depth, double* to) {
  const T* from = static_cast<const T*>(row);
  int64_t k = 0;
  for (; k + kLanes <= depth; k += kLanes) {
    const Doubles wide = widen(from + k);
    __builtin_memcpy(to + k, &wide, sizeof wide);
  }
  if (k < depth) {
    T last[kLanes] = {};
    __builtin_memcpy(last, from + k, (depth - k) * sizeof(T));
    const Doubles wide = widen(last);
    __builtin_memcpy(to + k, &wide, (depth - k) * sizeof(double));
  }
}

// How 8 features are packed: `squared` and `residual` gain their terms.
struct IntoFloats {
  using Word = float;
  static constexpr int64_t kFeatures = 1;  // of a word
  static void eight(Doubles value, float* words, Doubles& squared, Doubles&) {
    const Floats packed = to_floats(value);
    const Doubles wide = to_doubles(packed);
    squared += wide * wide;
    __builtin_memcpy(words, &packed, sizeof packed);
  }
};
struct IntoPairs {
  using Word = uint32_t;
  static constexpr int64_t kFeatures = 2;
  static void eight(Doubles value, uint32_t* words, Doubles& squared, Doubles& residual) {
    const Words bits = reinterpret_cast<Words>(to_floats(value));
    Words top = (bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff0000u;  // to nearest, ties to even
    top &= reinterpret_cast<Words>((top & 0x7f800000) != 0);
    const Doubles packed = to_doubles(reinterpret_cast<Floats>(top));
    squared += packed * packed;
    residual += (packed - value) * (packed - value);
    const Shorts halves = __builtin_convertvector(top >> 16, Shorts);
    __builtin_memcpy(words, &halves, sizeof halves);
  }
};

template <class Into, class T>
PackedRow pack(const void* from, int64_t depth, const double* shift, double scale, const double* offset,
               typename Into::Word* words) {
  const T* row = static_cast<const T*>(from);
  Doubles squared[kChains] = {}, residual[kChains] = {};
  int64_t k = 0;
  for (; k + kStep <= depth; k += kStep)
    for (int64_t c = 0; c < kChains; ++c) {
      const int64_t at = k + c * kLanes;
      const Doubles value = (widen(row + at) - load<Doubles>(shift + at)) * scale - load<Doubles>(offset + at);
      Into::eight(value, words + at / Into::kFeatures, squared[c], residual[c]);
    }
  if (k < depth) {
    T last[kStep] = {};
    double last_shift[kStep] = {}, last_offset[kStep] = {};
    typename Into::Word last_words[kStep / Into::kFeatures];
    __builtin_memcpy(last, row + k, (depth - k) * sizeof(T));
    __builtin_memcpy(last_shift, shift + k, (depth - k) * sizeof(double));
    __builtin_memcpy(last_offset, offset + k, (depth - k) * sizeof(double));
    for (int64_t c = 0; c < kChains; ++c) {
      const int64_t at = c * kLanes;
      const Doubles value =
          (widen(last + at) - load<Doubles>(last_shift + at)) * scale - load<Doubles>(last_offset + at);
      Into::eight(value, last_words + at / Into::kFeatures, squared[c], residual[c]);
    }
    __builtin_memcpy(words + k / Into::kFeatures, last_words,
                     (depth - k + Into::kFeatures - 1) / Into::kFeatures * sizeof(typename Into::Word));
  }
  return {total(squared), total(residual)};
}

// Bisects between the bounds of the keys until k of them are at least the pivot. Counting is vector work without a
// branch that could be mispredicted, and scores of candidates lie close together: a dozen counts do.
uint64_t keep_largest(uint64_t* keys, int64_t count, int64_t k) {
  uint64_t low = keys[0], high = keys[0];  // at least k keys are >= low
  for (int64_t m = 1; m < count; ++m) {
    low = keys[m] < low ? keys[m] : low;
    high = keys[m] > high ? keys[m] : high;
  }
  for (int64_t least = count; least != k;) {
    const uint64_t pivot = low + (high - low) / 2 + 1;
    int64_t above = 0;
    for (int64_t m = 0; m < count; ++m) above += keys[m] >= pivot;
    if (above >= k) {
      low = pivot;
      least = above;
    } else {
      high = pivot - 1;
    }
  }
  uint64_t smallest = high;
  int64_t kept = 0;
  for (int64_t m = 0; m < count; ++m) {
    const uint64_t key = keys[m];
    keys[m] = keys[kept];
    keys[kept] = key;
    kept += key >= low;
    smallest = key >= low && key < smallest ? key : smallest;
  }
  return smallest;
}

}  // namespace

extern const RowOps row_ops;
const RowOps row_ops = {
    {sum_over<Product, Half>, sum_over<Product, BFloat>, sum_over<Product, float>, sum_over<Product, double>},
    {sum_over<SquaredDifference, Half>, sum_over<SquaredDifference, BFloat>, sum_over<SquaredDifference, float>,
     sum_over<SquaredDifference, double>},
    {widen_row<Half>, widen_row<BFloat>, widen_row<float>, widen_row<double>},
    {pack<IntoFloats, Half>, pack<IntoFloats, BFloat>, pack<IntoFloats, float>, pack<IntoFloats, double>},
    {pack<IntoPairs, Half>, pack<IntoPairs, BFloat>, pack<IntoPairs, float>, pack<IntoPairs, double>},
    keep_largest};

}  // namespace repsim::cpu::REPSIM_ISA
