// How far the scores of packed rows can be from the truth: what certifies a list of neighbours, on every processor.
#pragma once

#include <cmath>
#include <cstdint>

#include "host_device.h"
#include "ops.h"

namespace repsim {

// Roundings of 2^-24 in a product of float32 or of bfloat16 rows as the CPU takes it: one for each feature of a chunk
// and one for each chunk; bfloat16 products flush what is subnormal and may round a pair once more. The halves and
// their subtraction add a few.
REPSIM_HOST_DEVICE inline double roundings_in_chunks(Filter filter, int64_t depth) {
  const bool pairs = filter == Filter::bfloat16;
  const double chunk = pairs ? 1024 : 512, features = static_cast<double>(depth);
  return (pairs ? 1.5 : 1.0) * (features < chunk ? features : chunk) + features / chunk + 5;
}

// The same of a GPU's product, which adds in an order of its own. Float32: one for each feature, whatever the
// order. bfloat16 on tensor cores: products are exact, but those of a step are aligned to the largest, with at least 23
// bits after its first, and cut, as is their sum: 2^-22 for each feature holds for steps of any length.
//
// Of sums of parts the small products come first, and a part has at most 2^-8 (1 + 2^-8) of the one before it. So what
// the sums hold while the first products are added is at most 2^-8 of |x_i| |x_j| (1.004), twice that, and with the
// last one 1.016: 1.03 times the roundings of one product, in all. What is left out is at most |b_i| |b_j|, 258
// roundings, for two parts; and |b_i| |c_j| + |c_i| |b_j| + |c_i| |c_j|, below 3, for three.
REPSIM_HOST_DEVICE inline double roundings_in_any_order(Filter filter, int64_t depth) {
  const double features = static_cast<double>(depth);
  switch (filter) {
    case Filter::float32:
      return features + 8;
    case Filter::bfloat16:
      return 4 * features + 8;
    case Filter::bfloat16x3:
      return 4.2 * features + 8 + 260;
    default:
      return 4.2 * features + 8 + 3;
  }
}

// How far the scores of one row's tiles can be from the truth.
//   between packed rows: the roundings of their product.
//   from packed rows to exact ones: |p_i - p_j| is off by at most residual_i + residual_j; p_i . p_j by at most
//     |p_i| residual_j + residual_i |x_j|.
//   the float64 scores: `rounding_` of their size.
class RowBounds {
 public:
  REPSIM_HOST_DEVICE RowBounds(Metric metric, int64_t depth, const Certificate& certificate, double roundings)
      : c_(certificate),
        metric_(metric),
        roundings_(roundings),
        flushed_(static_cast<double>(depth) * 0x1p-123),  // up to six products of a feature, each below 2^-126
        rounding_((static_cast<double>(depth) / 32 + 48) * 0x1p-53) {}

  REPSIM_HOST_DEVICE void hold(int64_t i) {
    norm_ = norm_of(c_.halves[i]);
    residual_ = c_.residuals[i];
  }

  // How far a row can be at most whose float64 score is at least `kth`, in the same units.
  REPSIM_HOST_DEVICE double reach(double kth) const {
    if (metric_ == Metric::inner_product)
      return 2 * rounding_ * (norm_ + residual_) * (c_.longest + c_.coarsest) - kth * c_.unit * c_.unit;
    return metric_ == Metric::cosine ? std::sqrt(std::fmax(0.0, 2 - 2 * kth + 4 * rounding_))
                                     : -kth * c_.unit * (1 + 2 * rounding_);
  }

  // No row whose tile scores below this is as near as the k-th, whose float64 score is `kth`.
  REPSIM_HOST_DEVICE double level(double kth) const {
    if (metric_ == Metric::inner_product)
      return -reach(kth) - (norm_ * c_.coarsest + residual_ * (c_.longest + c_.coarsest) + packed(c_.longest));
    // As near a row lies no further out than this one and the distance.
    const double distance = reach(kth);
    const double residual = std::fmin(c_.coarsest, c_.ratio * (norm_ + residual_ + distance) + c_.floor);
    const double packed_distance = distance + residual_ + residual;
    return -packed_distance * packed_distance / 2 - packed(norm_ + packed_distance);
  }

 private:
  REPSIM_HOST_DEVICE static double norm_of(float half) { return std::sqrt(2.0 * half) * (1 + 0x1p-22); }

  REPSIM_HOST_DEVICE double packed(double norm) const {
    const double both = norm_ + norm;
    return 1.01 * 0x1p-24 * (roundings_ * norm_ * norm + 2 * both * both) + flushed_;
  }

  const Certificate& c_;
  Metric metric_;
  double roundings_, flushed_, rounding_;
  double norm_ = 0.0, residual_ = 0.0;
};

}  // namespace repsim
