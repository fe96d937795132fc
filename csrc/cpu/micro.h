// The register block of every product of panels: rows of a broadcast, columns of b in vectors, sums in registers.
// Parallel axis: none. Bytes: (rows + columns) words in for rows times columns products of a step of the depth.
//
// One template over the word of a panel: float, double, or a pair of bfloat16 where the instruction set multiplies
// them. Included only by files that are compiled once per instruction set; everything has internal linkage and no
// standard template is used.
#pragma once

#include <cstdint>

#include "../ops.h"

#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

namespace repsim::cpu::REPSIM_ISA {
namespace {

// Two neighbouring features of a row, the first in the lower half: what one bfloat16 instruction multiplies.
enum class BFloatPair : uint32_t {};

// How a word is held in vectors (`Wide`) and what its products are summed in (`Sum`, of as many lanes).
template <class Word>
struct Operand;

template <>
struct Operand<float> {
  using Sum = float;
  using Wide = float __attribute__((vector_size(REPSIM_VECTOR_BYTES)));
  using Sums = Wide;
  static Wide broadcast(float word) { return word - Wide{}; }
  static void multiply_add(Sums& sum, Wide a, Wide b) { sum += a * b; }
};

template <>
struct Operand<double> {
  using Sum = double;
  using Wide = double __attribute__((vector_size(REPSIM_VECTOR_BYTES)));
  using Sums = Wide;
  static Wide broadcast(double word) { return word - Wide{}; }
  static void multiply_add(Sums& sum, Wide a, Wide b) { sum += a * b; }
};

// Panels of float32 whose "product" is what two entries add to a distance.
struct SquaredDifference {
  float value;
};
struct AbsoluteDifference {
  float value;
};

template <>
struct Operand<SquaredDifference> : Operand<float> {
  static Wide broadcast(SquaredDifference word) { return word.value - Wide{}; }
  static void multiply_add(Sums& sum, Wide a, Wide b) { sum += (a - b) * (a - b); }
};

template <>
struct Operand<AbsoluteDifference> : Operand<float> {
  using Bits = int32_t __attribute__((vector_size(REPSIM_VECTOR_BYTES)));
  static Wide broadcast(AbsoluteDifference word) { return word.value - Wide{}; }
  static void multiply_add(Sums& sum, Wide a, Wide b) {
    sum += reinterpret_cast<Wide>(reinterpret_cast<Bits>(a - b) & 0x7fffffff);
  }
};

#ifdef __AVX512BF16__
template <>
struct Operand<BFloatPair> {
  using Sum = float;
  using Wide = int32_t __attribute__((vector_size(REPSIM_VECTOR_BYTES)));
  using Sums = float __attribute__((vector_size(REPSIM_VECTOR_BYTES)));
  static Wide broadcast(BFloatPair word) { return static_cast<int32_t>(word) - Wide{}; }
  // sum += a_0 b_0 + a_1 b_1; there is no way to say this but the intrinsic. Subnormal products and sums become 0.
  static void multiply_add(Sums& sum, Wide a, Wide b) {
    sum = _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
  }
};
#endif

// The shape of the block is given in vectors, so that every word has as many sums: 24, 8 or 16 hide the latency of the
// multiply-add.
template <class Word>
struct Micro {
  using Of = Operand<Word>;
  using Wide = typename Of::Wide;
  using Sums = typename Of::Sums;
  using Sum = typename Of::Sum;
  static constexpr int64_t kLanes = REPSIM_VECTOR_BYTES / sizeof(Word);
  static constexpr int64_t kRows = REPSIM_MICRO_ROWS;
  static constexpr int64_t kVectors = REPSIM_MICRO_COLUMNS / (REPSIM_VECTOR_BYTES / 4);
  static constexpr int64_t kColumns = kVectors * kLanes;
  static_assert(kTile % kColumns == 0 && kTile % kRows == 0 && kPanel % kLanes == 0 && kPanel % kRows == 0);

  // Words taken at a time: both operands then stay in L2 at any depth.
  static constexpr int64_t kDepthChunk = 2048 / sizeof(Word);

  // c[i + r][j + column] (+)= sum over `depth` words; a and b at their first panels and at the chunk's first word.
  template <bool accumulate>
  static inline void block(const Word* a, const Word* b, int64_t i, int64_t j, int64_t panel_stride, int64_t depth,
                           Sum* c) {
    const Word* rows = a + i / kPanel * panel_stride + i % kPanel;
    const Word* columns[kVectors];
    for (int64_t v = 0; v < kVectors; ++v) {
      const int64_t first = j + v * kLanes;
      columns[v] = b + first / kPanel * panel_stride + first % kPanel;
    }
    Sums sum[kRows][kVectors] = {};
    for (int64_t k = 0; k < depth; ++k) {
      Wide column[kVectors];
      for (int64_t v = 0; v < kVectors; ++v) column[v] = *reinterpret_cast<const Wide*>(columns[v] + k * kPanel);
      for (int64_t r = 0; r < kRows; ++r) {
        const Wide row = Of::broadcast(rows[k * kPanel + r]);
        for (int64_t v = 0; v < kVectors; ++v) Of::multiply_add(sum[r][v], row, column[v]);
      }
    }
    // A chunk is added whole to those before it: the rounding grows with the chunks, not with the depth.
    for (int64_t r = 0; r < kRows; ++r)
      for (int64_t v = 0; v < kVectors; ++v) {
        Sums& at = *reinterpret_cast<Sums*>(c + (i + r) * kTile + j + v * kLanes);
        at = accumulate ? at + sum[r][v] : sum[r][v];
      }
  }

  // c = a b' over 12 panels of each, or c += a b'; only the first `rows` rows need be right.
  template <bool accumulate>
  static void product(const Word* a, const Word* b, int64_t depth, Sum* c, int64_t rows = kTile) {
    const int64_t panel_stride = depth * kPanel;
    for (int64_t k = 0; k < depth; k += kDepthChunk) {
      const int64_t chunk = depth - k < kDepthChunk ? depth - k : kDepthChunk;
      for (int64_t j = 0; j < kTile; j += kColumns)
        for (int64_t i = 0; i < rows; i += kRows) {
          if (!accumulate && k == 0)
            block<false>(a + k * kPanel, b + k * kPanel, i, j, panel_stride, chunk, c);
          else
            block<true>(a + k * kPanel, b + k * kPanel, i, j, panel_stride, chunk, c);
        }
    }
  }
};

}  // namespace
}  // namespace repsim::cpu::REPSIM_ISA
