// The kernels of one or two matrices in the memory of a launch, and their values in a row of a tile.
#pragma once

#include "tile_rows.h"

namespace repsim::cuda {

struct Program {
  struct Factor {
    TilePair pair;
    Kernel kernel;
    float gain;
    int first_coefficient, degree;
  };
  struct Term {
    int first_factor, count;
    float shift, weight;
  };
  Factor factors[kMostFactors];
  Term terms[kMostFactors];
  float coefficients[kMostCoefficients];
  int first_term[3];  // of each matrix, and the end
};

inline Program program_of(const TileMatrix* matrices, int count) {
  Program program{};
  int terms = 0, factors = 0, coefficients = 0;
  for (int m = 0; m < count; ++m) {
    program.first_term[m] = terms;
    for (int64_t t = 0; t < matrices[m].count; ++t) {
      const TileTerm& term = matrices[m].terms[t];
      for (int64_t f = 0; f < term.count; ++f) {
        const TileFactor& factor = term.factors[f];
        const int own = factor.kernel == Kernel::polynomial ? factor.degree + 1 : 0;
        if (factors + f >= kMostFactors || coefficients + own > kMostCoefficients)
          throw std::invalid_argument("kernel: expected at most 16 factors and 64 coefficients on a GPU");
        for (int c = 0; c < own; ++c) program.coefficients[coefficients + c] = factor.coefficients[c];
        program.factors[factors + f] = {factor.pair, factor.kernel, factor.gain, coefficients, factor.degree};
        coefficients += own;
      }
      program.terms[terms++] = {factors, static_cast<int>(term.count), term.shift, term.weight};
      factors += static_cast<int>(term.count);
    }
  }
  for (int m = count; m < 3; ++m) program.first_term[m] = terms;
  return program;
}

// exp(min(x, 0)) - shift, as csrc/cpu/tiles.cpp says: the same numbers up to fused multiply-adds.
REPSIM_DEVICE float shifted_exponential(float x, float shift) {
  x = x > 0.0f ? 0.0f : x;
  x = x > -87.0f ? x : -87.0f;
  const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const float m = (x * 1.44269504088896341f + magic) - magic;
  const float r = (x - m * 0.693145751953125f) - m * 1.42860682030941723e-6f;
  float p = 1.0f / 5040;
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  const float power = float_of(static_cast<uint32_t>(static_cast<int32_t>(m) + 127) << 23);
  return power * (p * r) + (power - shift);
}

// One factor, less its shift, in row i.
REPSIM_DEVICE void factor_row(const Warp& warp, const Program& program, const Program::Factor& factor, float shift,
                              const Tile& tile, int64_t i, int64_t column, PerLane<Values>& v) {
  const TilePair& pair = factor.pair;
  const float gain = factor.gain;
  switch (factor.kernel) {
    case Kernel::linear:
      warp.each_lane([&](int lane) {
        load_row(pair.products, tile, i, column, lane, v[lane]);
        for (int c = 0; c < kOwn; ++c) v[lane].of[c] -= shift;
      });
      return;
    case Kernel::polynomial: {
      const float* coefficients = program.coefficients + factor.first_coefficient;
      const float bias_i = pair.half_i[i];
      warp.each_lane([&](int lane) {
        load_row(pair.products, tile, i, column, lane, v[lane]);
        for (int c = 0; c < kOwn; ++c) {
          const int64_t j = column + column_of(lane, c);
          const float x = v[lane].of[c];
          const float t = x + ((j < tile.columns ? pair.half_j[j] : 0.0f) + bias_i);
          float p = coefficients[factor.degree];
          for (int m = factor.degree - 1; m >= 0; --m) p = p * t + coefficients[m];
          v[lane].of[c] = (x * gain + p) - shift;
        }
      });
      return;
    }
    case Kernel::laplacian_l1:
      warp.each_lane([&](int lane) {
        load_row(pair.products, tile, i, column, lane, v[lane]);
        for (int c = 0; c < kOwn; ++c) v[lane].of[c] = shifted_exponential(v[lane].of[c] * gain, shift);
      });
      return;
    case Kernel::rbf:
      half_distances(warp, pair, tile, i, column, Lost::rbf, gain, v);
      warp.each_lane([&](int lane) {
        for (int c = 0; c < kOwn; ++c) v[lane].of[c] = shifted_exponential(v[lane].of[c] * gain, shift);
      });
      return;
    case Kernel::laplacian_l2:
      half_distances(warp, pair, tile, i, column, Lost::laplacian, gain, v);
      warp.each_lane([&](int lane) {
        for (int c = 0; c < kOwn; ++c) {
          const float squared = -2.0f * v[lane].of[c];
          v[lane].of[c] = shifted_exponential(std::sqrt(squared > 0.0f ? squared : 0.0f) * -gain, shift);
        }
      });
      return;
  }
}

// v = K - shift of matrix m in row i of a tile, 0 where there is no pair of two inputs.
REPSIM_DEVICE void matrix_row(const Warp& warp, const Program& program, int m, const Tile& tile, int64_t i,
                              int64_t column, PerLane<Values>& v) {
  const int first = program.first_term[m], end = program.first_term[m + 1];
  for (int t = first; t < end; ++t) {
    const Program::Term& term = program.terms[t];
    const bool single = term.count == 1;
    PerLane<Values> product;
    factor_row(warp, program, program.factors[term.first_factor], single ? term.shift : 0.0f, tile, i, column, product);
    for (int f = 1; f < term.count; ++f) {
      PerLane<Values> other;
      factor_row(warp, program, program.factors[term.first_factor + f], 0.0f, tile, i, column, other);
      warp.each_lane([&](int lane) {
        for (int c = 0; c < kOwn; ++c) product[lane].of[c] *= other[lane].of[c];
      });
    }
    const float shift = single ? 0.0f : term.shift;
    warp.each_lane([&](int lane) {
      for (int c = 0; c < kOwn; ++c) {
        const float value = (product[lane].of[c] - shift) * term.weight;
        v[lane].of[c] = t == first ? value : v[lane].of[c] + value;
      }
    });
  }
  warp.each_lane([&](int lane) {
    for (int c = 0; c < kOwn; ++c)
      if (!is_pair(tile, i, column + column_of(lane, c))) v[lane].of[c] = 0.0f;
  });
}

}  // namespace repsim::cuda
