// Reading rows: sums, norms and packing. Parallel axis: columns for the sums, rows otherwise. Bytes: the rows once.
#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "element.h"
#include "parallel.h"

namespace repsim {

namespace {
constexpr int64_t kRowsAtATime = 64;
constexpr int64_t kColumnsAtATime = 64;
}  // namespace

int64_t column_sums(const Source& x, double* sums, int threads) {
  return cpu::with_elements(x, [&](auto* data) {
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
          const double value = cpu::widen(row[k]);
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

namespace {

// sums[i] = sum_k term(x_ik - shift_k, k)
template <class Term>
void sum_rows(const Source& x, const double* shift, double* sums, int threads, Term term) {
  cpu::with_elements(x, [&](auto* data) {
    cpu::parallel((x.rows + kRowsAtATime - 1) / kRowsAtATime, threads, [&](int64_t chunk) {
      const int64_t end = std::min((chunk + 1) * kRowsAtATime, x.rows);
      for (int64_t i = chunk * kRowsAtATime; i < end; ++i) {
        const auto* row = data + i * x.row_stride;
        double sum[4] = {};  // four chains hide the latency of the addition
        for (int64_t k = 0; k < x.depth; ++k) sum[k & 3] += term(cpu::widen(row[k]) - (shift ? shift[k] : 0.0), k);
        sums[i] = (sum[0] + sum[1]) + (sum[2] + sum[3]);
      }
    });
  });
}

}  // namespace

void squared_norms(const Source& x, const double* shift, double* norms, int threads) {
  sum_rows(x, shift, norms, threads, [](double value, int64_t) { return value * value; });
}

void project_rows(const Source& x, const double* shift, const double* vector, double* products, int threads) {
  sum_rows(x, shift, products, threads, [&](double value, int64_t k) { return value * vector[k]; });
}

void pack_rows(const Source& x, const double* shift, const double* scale, const double* offset, float* panels,
               float* halves, int threads) {
  cpu::with_elements(x, [&](auto* data) {
    const int64_t panel_count = (x.rows + kTile - 1) / kTile * (kTile / kPanel);
    cpu::parallel(panel_count, threads, [&](int64_t p) {
      float* panel = panels + p * kPanel * x.depth;
      const int64_t valid = std::clamp<int64_t>(x.rows - p * kPanel, 0, kPanel);
      if (valid < kPanel) std::fill(panel, panel + kPanel * x.depth, 0.0f);
      for (int64_t r = 0; r < valid; ++r) {
        const int64_t i = p * kPanel + r;
        const auto* row = data + i * x.row_stride;
        const double factor = scale[i];
        double sum[4] = {};
        for (int64_t k = 0; k < x.depth; ++k) {
          const float value =
              static_cast<float>((cpu::widen(row[k]) - (shift ? shift[k] : 0.0)) * factor - (offset ? offset[k] : 0.0));
          panel[k * kPanel + r] = value;
          sum[k & 3] += static_cast<double>(value) * value;
        }
        const double half = ((sum[0] + sum[1]) + (sum[2] + sum[3])) / 2;
        // Within this bound no product and no distance of packed rows overflows.
        if (!(half < 0x1p124))
          throw std::range_error("rows: expected scaled rows whose squared norms float32 can hold");
        halves[i] = static_cast<float>(half);
      }
    });
  });
}

}  // namespace repsim
