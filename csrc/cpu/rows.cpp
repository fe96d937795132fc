// Reading rows: sums, norms and packing. Parallel axis: columns for the sums, rows otherwise. Bytes: the rows once.
#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <vector>

#include "element.h"
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

void squared_norms(const Source& x, const double* shift, double* norms, int threads) {
  const std::vector<double> none(shift ? 0 : x.depth);
  const double* from = shift ? shift : none.data();
  const auto squared_distance = cpu::row_ops().squared_distance[static_cast<int>(x.dtype)];
  cpu::parallel((x.rows + kRowsAtATime - 1) / kRowsAtATime, threads, [&](int64_t chunk) {
    for (int64_t i = chunk * kRowsAtATime; i < std::min((chunk + 1) * kRowsAtATime, x.rows); ++i)
      norms[i] = squared_distance(from, cpu::row_of(x, i), x.depth);
  });
}

void project_rows(const Source& x, const double* shift, const double* vector, double* products, int threads) {
  cpu::with_elements(x, [&](auto* data) {
    cpu::parallel((x.rows + kRowsAtATime - 1) / kRowsAtATime, threads, [&](int64_t chunk) {
      for (int64_t i = chunk * kRowsAtATime; i < std::min((chunk + 1) * kRowsAtATime, x.rows); ++i) {
        const auto* row = data + i * x.row_stride;
        double sum[4] = {};  // four chains hide the latency of the addition
        for (int64_t k = 0; k < x.depth; ++k) sum[k & 3] += (cpu::widen(row[k]) - (shift ? shift[k] : 0.0)) * vector[k];
        products[i] = (sum[0] + sum[1]) + (sum[2] + sum[3]);
      }
    });
  });
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
        if (!(half < 0x1p124)) throw too_long();
        halves[i] = static_cast<float>(half);
      }
    });
  });
}

void pack_pairs(const Source& x, const double* shift, const double* scale, const double* offset, uint32_t* panels,
                float* halves, float* residuals, int threads) {
  const std::vector<double> none(x.depth);
  const auto pack = cpu::row_ops().pack_pairs[static_cast<int>(x.dtype)];
  const int64_t words = (x.depth + 1) / 2, panel_count = (x.rows + kTile - 1) / kTile * (kTile / kPanel);
  auto work = [&](int64_t p, std::vector<uint32_t>& packed) {
    const int64_t valid = std::clamp<int64_t>(x.rows - p * kPanel, 0, kPanel);
    std::fill(packed.begin() + valid * words, packed.end(), 0);
    for (int64_t r = 0; r < valid; ++r) {
      const int64_t i = p * kPanel + r;
      const cpu::PackedRow found = pack(cpu::row_of(x, i), x.depth, shift ? shift : none.data(), scale[i],
                                        offset ? offset : none.data(), packed.data() + r * words);
      if (!(found.squared_norm / 2 < 0x1p124 && found.squared_residual < 0x1p124)) throw too_long();
      halves[i] = static_cast<float>(found.squared_norm / 2);
      residuals[i] = static_cast<float>(std::sqrt(found.squared_residual) * (1 + 0x1p-20));  // rounding only raises it
    }
    uint32_t* panel = panels + p * kPanel * words;
    for (int64_t t = 0; t < words; ++t)
      for (int64_t r = 0; r < kPanel; ++r) panel[t * kPanel + r] = packed[r * words + t];
  };
  cpu::parallel(panel_count, threads, [&] { return std::vector<uint32_t>(kPanel * words); }, work);
}

}  // namespace repsim
