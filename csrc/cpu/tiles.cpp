// One tile of pair work. Parallel axis: none, a thread owns the tile. Bytes: two times 192 rows in, the tile stays in
// L2.
//
// This file is compiled once per instruction set (REPSIM_ISA names the namespace, REPSIM_VECTOR_BYTES the vector).
// Everything in it has internal linkage and no standard template is used: a merged copy with newer instructions would
// break older CPUs.
#include "tiles.h"

#include "micro.h"

#ifdef __AVX512F__
#include <immintrin.h>
#endif

namespace repsim::cpu::REPSIM_ISA {
namespace {

constexpr int kLanes = REPSIM_VECTOR_BYTES / 4;
using Vector = float __attribute__((vector_size(REPSIM_VECTOR_BYTES)));
using Integers = int32_t __attribute__((vector_size(REPSIM_VECTOR_BYTES)));
using Doubles = double __attribute__((vector_size(REPSIM_VECTOR_BYTES)));
using HalfVector = float __attribute__((vector_size(REPSIM_VECTOR_BYTES / 2)));

constexpr int kTileVectors = kTile / kLanes;

inline Vector load(const float* p) { return *reinterpret_cast<const Vector*>(p); }
inline void store(float* p, Vector v) { *reinterpret_cast<Vector*>(p) = v; }
inline Vector broadcast(float x) { return x - Vector{}; }

// Both halves of v added to a pair of double vectors.
inline void add_wide(Doubles (&sum)[2], Vector v) {
  HalfVector half[2];
  __builtin_memcpy(half, &v, sizeof v);
  for (int h = 0; h < 2; ++h) {
#ifdef __AVX512F__  // as in row_ops.cpp
    sum[h] += reinterpret_cast<Doubles>(_mm512_maskz_cvtps_pd(0xff, reinterpret_cast<__m256>(half[h])));
#else
    sum[h] += __builtin_convertvector(half[h], Doubles);
#endif
  }
}

inline double total(const Doubles (&sum)[2]) {
  const Doubles both = sum[0] + sum[1];
  double result = 0;
  for (int lane = 0; lane < kLanes / 2; ++lane) result += both[lane];
  return result;
}

void multiply(const float* a, const float* b, int64_t depth, float* c) { Micro<float>::product<false>(a, b, depth, c); }

void add_products(const double* a, const double* b, int64_t panel_stride, int64_t depth, int64_t rows, int64_t columns,
                  int64_t above, double* c) {
  using Block = Micro<double>;
  for (int64_t j = 0; j < columns; j += Block::kColumns)
    for (int64_t i = 0; i < rows && i < above + j + Block::kColumns; i += Block::kRows)
      Block::block<true>(a, b, i, j, panel_stride, depth, c);
}

void multiply_rows(const float* a, const float* b, int64_t depth, int64_t rows, float* c) {
  Micro<float>::product<false>(a, b, depth, c, rows);
}

#ifdef __AVX512BF16__
void multiply_pairs(const uint32_t* a, const uint32_t* b, int64_t words, int64_t rows, float* c) {
  Micro<BFloatPair>::product<false>(reinterpret_cast<const BFloatPair*>(a), reinterpret_cast<const BFloatPair*>(b),
                                    words, c, rows);
}
#else
constexpr auto multiply_pairs = nullptr;
#endif

// exp(min(x, 0)) - shift. exp(x) = 2^m + 2^m (e^r - 1) with |r| <= ln2 / 2, e^r - 1 by its Taylor polynomial of
// degree 7. The shift is taken from 2^m, so that K - shift keeps its digits where all K are near 1 and where all are
// near 0. No distance is negative, so x > 0 is rounding, and far from the origin it would be large: K <= 1 keeps the
// fixed point sums in range. Below -87, where the result would be subnormal, it stays at e^-87 = 1.6e-38, far under
// their resolution. Largest error of the exponential on 1.3e8 arguments from -87 to -2^-40: 1.21 ulp (1.02e-7
// relative), 1.20 with fused multiply-adds.
inline Vector shifted_exponential(Vector x, float shift) {
  const Vector lowest = broadcast(-87.0f), highest = {};
  x = x > highest ? highest : x;
  x = x > lowest ? x : lowest;
  const Vector magic = broadcast(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const Vector m = (x * 1.44269504088896341f + magic) - magic;
  const Vector r = (x - m * 0.693145751953125f) - m * 1.42860682030941723e-6f;
  Vector p = broadcast(1.0f / 5040);
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  const Vector power = reinterpret_cast<Vector>((__builtin_convertvector(m, Integers) + 127) << 23);
  return power * (p * r) + (power - shift);
}

// c = of(c, row, first column) over the tile.
template <class Of>
inline void each(float* c, Of of) {
  for (int64_t i = 0; i < kTile; ++i)
    for (int64_t j = 0; j < kTile; j += kLanes) store(c + i * kTile + j, of(load(c + i * kTile + j), i, j));
}

void differences(const float* a, const float* b, int64_t depth, bool squared, float* c) {
  if (squared) {
    Micro<SquaredDifference>::product<false>(reinterpret_cast<const SquaredDifference*>(a),
                                             reinterpret_cast<const SquaredDifference*>(b), depth, c);
    each(c, [](Vector x, int64_t, int64_t) { return x * -0.5f; });
  } else {
    Micro<AbsoluteDifference>::product<false>(reinterpret_cast<const AbsoluteDifference*>(a),
                                              reinterpret_cast<const AbsoluteDifference*>(b), depth, c);
    each(c, [](Vector x, int64_t, int64_t) { return -x; });
  }
}

void subtract_halves(float* c, const float* half_i, const float* half_j) {
  each(c, [&](Vector x, int64_t i, int64_t j) { return x - (load(half_j + j) + half_i[i]); });
}

void rbf(float* c, const float* half_i, const float* half_j, float gain, float shift) {
  each(c, [&](Vector x, int64_t i, int64_t j) {
    return shifted_exponential((x - (load(half_j + j) + half_i[i])) * gain, shift);
  });
}

void exponential(float* c, float gain, float shift) {
  each(c, [&](Vector x, int64_t, int64_t) { return shifted_exponential(x * gain, shift); });
}

void root_exponential(float* c, float gain, float shift) {
  for (int64_t i = 0; i < kTile; ++i) {
    alignas(64) float distance[kTile];
    for (int64_t j = 0; j < kTile; ++j) {  // the compiler's own vectors: they have a square root
      const float squared = -2 * c[i * kTile + j];
      distance[j] = __builtin_sqrtf(squared > 0 ? squared : 0);
    }
    for (int64_t j = 0; j < kTile; j += kLanes)
      store(c + i * kTile + j, shifted_exponential(load(distance + j) * -gain, shift));
  }
}

void polynomial(float* c, const float* bias_i, const float* bias_j, float gain, const float* coefficients, int degree) {
  each(c, [&](Vector x, int64_t i, int64_t j) {
    const Vector t = x + (load(bias_j + j) + bias_i[i]);
    Vector p = broadcast(coefficients[degree]);
    for (int m = degree - 1; m >= 0; --m) p = p * t + coefficients[m];
    return x * gain + p;
  });
}

void shift_and_scale(float* c, float shift, float scale) {
  each(c, [&](Vector x, int64_t, int64_t) { return (x - shift) * scale; });
}

void multiply_by(float* c, const float* a) {
  each(c, [&](Vector x, int64_t i, int64_t j) { return x * load(a + i * kTile + j); });
}

void add(float* c, const float* a) {
  each(c, [&](Vector x, int64_t i, int64_t j) { return x + load(a + i * kTile + j); });
}

// float32 adds runs of 12 vectors along a row and of 16 terms down a column, whatever the width of a vector; float64
// adds everything beyond.
constexpr int kRun = 12;
static_assert(kTileVectors % kRun == 0);

// rows[i] = sum_j of_row(x_ij), columns[j] = sum_i of_column(x_ij); both are given x, its row and its first column.
template <class OfRow, class OfColumn>
inline void both_sums(const float* c, OfRow of_row, OfColumn of_column, double* rows, double* columns) {
  for (int64_t j = 0; j < kTile; ++j) columns[j] = 0;
  for (int64_t i = 0; i < kTile; i += kPanel) {
    Vector column[kTileVectors] = {};
    for (int64_t r = i; r < i + kPanel; ++r) {
      Doubles wide[2] = {};
      for (int run = 0; run < kTileVectors; run += kRun) {
        Vector row = {};
        for (int v = run; v < run + kRun; ++v) {
          const Vector x = load(c + r * kTile + v * kLanes);
          row += of_row(x, r, v * kLanes);
          column[v] += of_column(x, r, v * kLanes);
        }
        add_wide(wide, row);
      }
      rows[r] = total(wide);
    }
    for (int v = 0; v < kTileVectors; ++v)
      for (int lane = 0; lane < kLanes; ++lane) columns[v * kLanes + lane] += column[v][lane];
  }
}

void sums(const float* c, double* rows, double* columns) {
  const auto same = [](Vector x, int64_t, int64_t) { return x; };
  both_sums(c, same, same, rows, columns);
}

void product_sums(const float* c, const float* b, double* rows, double* columns) {
  const auto product = [&](Vector x, int64_t i, int64_t j) { return x * load(b + i * kTile + j); };
  both_sums(c, product, product, rows, columns);
}

void weighted_sums(const float* c, const float* weight_i, const float* weight_j, double* rows, double* columns) {
  both_sums(
      c, [&](Vector x, int64_t, int64_t j) { return x * load(weight_j + j); },
      [&](Vector x, int64_t i, int64_t) { return x * weight_i[i]; }, rows, columns);
}

double dot(const float* a, const float* b) {
  Doubles wide[2] = {};
  for (int64_t run = 0; run < kTile * kTile; run += kRun * kLanes) {
    Vector row = {};
    for (int64_t at = run; at < run + kRun * kLanes; at += kLanes) row += load(a + at) * load(b + at);
    add_wide(wide, row);
  }
  return total(wide);
}

inline bool any(const Integers& mask) {
  uint64_t words[REPSIM_VECTOR_BYTES / 8];
  __builtin_memcpy(words, &mask, sizeof mask);
  uint64_t set = 0;
  for (uint64_t word : words) set |= word;
  return set != 0;
}

// Appends the lanes of a mask to the hits of row i: their columns from j on, and their scores.
#ifdef __AVX512F__
// Without a branch on which lanes are set; vector extensions have no compression.
inline int32_t append(const Integers& mask, Vector score, int32_t j, int32_t found, Hits& hits) {
  const __mmask16 set = _mm512_test_epi32_mask(reinterpret_cast<__m512i>(mask), reinterpret_cast<__m512i>(mask));
  const __m512i columns =
      _mm512_add_epi32(_mm512_set1_epi32(j), _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0));
  _mm512_storeu_si512(hits.columns + found, _mm512_maskz_compress_epi32(set, columns));
  _mm512_storeu_ps(hits.scores + found, _mm512_maskz_compress_ps(set, reinterpret_cast<__m512>(score)));
  return found + __builtin_popcount(set);
}
#else
inline int32_t append(const Integers& mask, Vector score, int32_t j, int32_t found, Hits& hits) {
  for (int32_t lane = 0; lane < kLanes; ++lane) {
    hits.columns[found] = j + lane;
    hits.scores[found] = score[lane];
    found -= mask[lane];
  }
  return found;
}
#endif

void select(const float* c, const float* row_threshold, const float* column_threshold, Hits& hits) {
  constexpr int32_t kGroup = 4 * kLanes;  // whether a lane is set costs more to find out than the comparison itself
  int32_t found = 0;
  for (int32_t i = 0; i < kTile; ++i) {
    const Vector row = broadcast(row_threshold[i]);
    // One comparison with the lower of the two thresholds; the lanes that pass are compared with both by the caller.
    const auto passed = [&](int32_t j) -> Integers {
      const Vector column = load(column_threshold + j);
      return load(c + i * kTile + j) >= (row < column ? row : column);
    };
    for (int32_t first = 0; first < kTile; first += kGroup) {
      Integers together = {};
      for (int32_t j = first; j < first + kGroup; j += kLanes) together |= passed(j);
      if (!any(together)) continue;
      for (int32_t j = first; j < first + kGroup; j += kLanes)
        found = append(passed(j), load(c + i * kTile + j), j, found, hits);
    }
    hits.ends[i] = found;
  }
}

// A product of float32 rows errs by about 2^-22 (h_i + h_j). That is too much for exp(gain q) where gain times it
// exceeds 2^-15 and the kernel is not negligible; for exp(-gain sqrt(-2 q)), whose root magnifies it near 0, likewise;
// and for the distance itself where it exceeds 2^-12 of it.
int32_t lost(const float* c, const float* half_i, const float* half_j, Lost use, float gain, Place* places) {
  constexpr float kNegligible = 25.0f;  // e^-25 = 1.4e-11
  constexpr float kError = 0x1p-18f;    // of the halves: a lost distance may look like a long one
  int32_t found = 0;
  for (int32_t i = 0; i < kTile; ++i)
    for (int32_t j = 0; j < kTile; j += kLanes) {
      const Vector halves = load(half_j + j) + half_i[i];
      Vector limit;
      if (use == Lost::rbf) {
        limit = halves * gain > broadcast(128.0f) ? halves * kError + kNegligible / gain : Vector{};
      } else if (use == Lost::laplacian) {
        const Vector root = halves * (gain * 0x1p-8f), most = broadcast(kNegligible / gain);
        limit = root < most ? root * root * 0.5f : most * most * 0.5f + halves * kError;
      } else {
        limit = halves * 0x1p-10f;
      }
      const Vector q = load(c + i * kTile + j);
      const Integers here = -q < limit;
      if (!any(here)) [[likely]]
        continue;
      for (int32_t lane = 0; lane < kLanes; ++lane)
        if (here[lane]) places[found++] = {i, j + lane};
    }
  return found;
}

int32_t count_bits(const float* c, int dropped, uint32_t first, uint32_t count, uint32_t* found, int32_t* below) {
  using Bits = uint32_t __attribute__((vector_size(REPSIM_VECTOR_BYTES)));
  const Bits last = count - 1 - Bits{};
  int32_t inside = 0;
  Integers lower = {};
  for (int64_t at = 0; at < kTile * kTile; at += kLanes) {
    const Vector x = -load(c + at);
    // A distance of equal rows may be -0, or lie a rounding below 0.
    const Bits place = reinterpret_cast<Bits>(x > Vector{} ? x : Vector{}) >> dropped;
    lower -= reinterpret_cast<Integers>(place < first - Bits{});
    const Bits shifted = place - first;
    const Integers here = reinterpret_cast<Integers>(shifted <= last);
    if (!any(here)) continue;
    for (int lane = 0; lane < kLanes; ++lane)
      if (here[lane]) found[inside++] = shifted[lane];
  }
  *below = 0;
  for (int lane = 0; lane < kLanes; ++lane) *below += lower[lane];
  return inside;
}

// The compiler's own vectors: theirs is a square root.
void squared_distances(double* c, const double* squares_i, const double* squares_j, double share, uint8_t* rows) {
  for (int64_t i = 0; i < kTile; ++i) {
    int64_t lost = 0;
    for (int64_t j = 0; j < kTile; ++j) {
      const double both = squares_i[i] + squares_j[j], apart = both - 2 * c[i * kTile + j];
      lost |= apart < share * both;
      c[i * kTile + j] = apart;
    }
    rows[i] = lost != 0;
  }
}

void roots(double* c) {
  for (int64_t at = 0; at < kTile * kTile; ++at) c[at] = __builtin_sqrt(c[at]);
}

void round_bits(const double* c, uint64_t* keys) {
  for (int64_t at = 0; at < kTile * kTile; ++at) {
    uint64_t bits;
    __builtin_memcpy(&bits, c + at, sizeof bits);
    keys[at] = (bits + (uint64_t{1} << 28)) >> 29;
  }
}

}  // namespace

extern const TileOps ops;
const TileOps ops = {REPSIM_ISA_NAME,
                     multiply,
                     add_products,
                     multiply_rows,
                     multiply_pairs,
                     differences,
                     subtract_halves,
                     lost,
                     rbf,
                     exponential,
                     root_exponential,
                     polynomial,
                     shift_and_scale,
                     multiply_by,
                     add,
                     sums,
                     product_sums,
                     weighted_sums,
                     dot,
                     select,
                     count_bits,
                     squared_distances,
                     roots,
                     round_bits};

}  // namespace repsim::cpu::REPSIM_ISA
