// Reading rows: sums, norms and packing. Parallel axis: columns for the sums, rows otherwise. Bytes: the rows once.
#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <vector>

#include "../element.h"
#include "parallel.h"
#include "row_ops.h"

namespace repsim {

namespace {
constexpr int64_t kRowsAtATime = 64;
constexpr int64_t kColumnsAtATime = 64;

std::range_error too_long() {
  return std::range_error("rows: expected scaled rows whose squared norms float32 can hold");
}
}  // namespace

int64_t column_sums(const Source& x, double* sums, int threads) {
  return with_elements(x, [&](auto* data) {
    std::atomic<int64_t> first_bad{x.rows};
    // A thread owns whole columns, so that every column is added in the order of the rows.
    const int64_t stripes = (x.depth + kColumnsAtATime - 1) / kColumnsAtATime;
    cpu::parallel(stripes, threads, [&](int64_t stripe) {
      const int64_t begin = stripe * kColumnsAtATime, width = std::min(kColumnsAtATime, x.depth - begin);
      double sum[kColumnsAtATime] = {};
      for (int64_t i = 0; i < x.rows; ++i) {
        const auto* row = data + i * x.row_stride + begin;
        double probe = 0;  // 0 * x is NaN exactly where x is not finite
        for (int64_t k = 0; k < width; ++k) {
          const double value = widen(row[k]);
          sum[k] += value;
          probe += value * 0.0;
        }
        if (std::isnan(probe)) {
          for (int64_t known = first_bad.load(); i < known && !first_bad.compare_exchange_weak(known, i);) {
          }
          break;
        }
      }
      std::copy(sum, sum + width, sums + begin);
    });
    const int64_t bad = first_bad.load();
    return bad < x.rows ? bad : int64_t{-1};
  });
}

void squared_norms(const Source& x, const double* shift, double* norms, int threads) {
  const std::vector<double> none(shift ? 0 : x.depth);
  const double* from = shift ? shift : none.data();
  const auto squared_distance = cpu::row_ops().squared_distance[static_cast<int>(x.dtype)];
  cpu::parallel((x.rows + kRowsAtATime - 1) / kRowsAtATime, threads, [&](int64_t chunk) {
    for (int64_t i = chunk * kRowsAtATime; i < std::min((chunk + 1) * kRowsAtATime, x.rows); ++i)
      norms[i] = squared_distance(from, row_of(x, i), x.depth);
  });
}

void project_rows(const Source& x, const double* shift, const double* vector, double* products, int threads) {
  with_elements(x, [&](auto* data) {
    cpu::parallel((x.rows + kRowsAtATime - 1) / kRowsAtATime, threads, [&](int64_t chunk) {
      for (int64_t i = chunk * kRowsAtATime; i < std::min((chunk + 1) * kRowsAtATime, x.rows); ++i) {
        const auto* row = data + i * x.row_stride;
        double sum[4] = {};  // four chains hide the latency of the addition
        for (int64_t k = 0; k < x.depth; ++k) sum[k & 3] += (widen(row[k]) - (shift ? shift[k] : 0.0)) * vector[k];
        products[i] = (sum[0] + sum[1]) + (sum[2] + sum[3]);
      }
    });
  });
}

namespace {

// Packs every row and lays 16 of them side by side; take(i, packed) is given what is known of row i.
template <class Word, class Take>
void pack_panels(const Source& x, const double* shift, const double* scale, const double* offset,
                 cpu::PackedRow (*pack)(const void*, int64_t, const double*, double, const double*, Word*),
                 int64_t words, Word* panels, Take take, int threads) {
  const std::vector<double> none(x.depth);
  const int64_t panel_count = (x.rows + kTile - 1) / kTile * (kTile / kPanel);
  auto work = [&](int64_t p, std::vector<Word>& packed) {
    const int64_t valid = std::clamp<int64_t>(x.rows - p * kPanel, 0, kPanel);
    std::fill(packed.begin() + valid * words, packed.end(), Word{});
    for (int64_t r = 0; r < valid; ++r) {
      const int64_t i = p * kPanel + r;
      const cpu::PackedRow found = pack(row_of(x, i), x.depth, shift ? shift : none.data(), scale[i],
                                        offset ? offset : none.data(), packed.data() + r * words);
      // Within this bound no product and no distance of packed rows overflows.
      if (!(found.squared_norm / 2 < 0x1p124 && found.squared_residual < 0x1p124)) throw too_long();
      take(i, found);
    }
    Word* panel = panels + p * kPanel * words;
    for (int64_t t = 0; t < words; ++t)
      for (int64_t r = 0; r < kPanel; ++r) panel[t * kPanel + r] = packed[r * words + t];
  };
  cpu::parallel(panel_count, threads, [&] { return std::vector<Word>(kPanel * words); }, work);
}

}  // namespace

void pack_rows(const Source& x, const double* shift, const double* scale, const double* offset, float* panels,
               float* halves, int threads) {
  pack_panels(
      x, shift, scale, offset, cpu::row_ops().pack_floats[static_cast<int>(x.dtype)], x.depth, panels,
      [&](int64_t i, const cpu::PackedRow& found) { halves[i] = static_cast<float>(found.squared_norm / 2); }, threads);
}

void pack_pairs(const Source& x, const double* shift, const double* scale, const double* offset, uint32_t* panels,
                float* halves, float* residuals, int threads) {
  pack_panels(
      x, shift, scale, offset, cpu::row_ops().pack_pairs[static_cast<int>(x.dtype)], (x.depth + 1) / 2, panels,
      [&](int64_t i, const cpu::PackedRow& found) {
        halves[i] = static_cast<float>(found.squared_norm / 2);
        residuals[i] =
            static_cast<float>(std::sqrt(found.squared_residual) * (1 + 0x1p-20));  // rounding only raises it
      },
      threads);
}

}  // namespace repsim
