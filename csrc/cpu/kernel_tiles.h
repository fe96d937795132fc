// One tile of a kernel matrix, or of distances, from the packed rows of its block.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "tile_grid.h"
#include "tiles.h"

namespace repsim::cpu {

// What the tiles of one thread are made in.
class KernelTiles {
 public:
  explicit KernelTiles(bool compound) : scratch_(compound ? 2 * kTile * kTile : 0) {}

  // c[i][j] = K_ij - shift for the rows and columns that exist; what stands elsewhere has no meaning.
  void kernel(const KernelMatrix& matrix, const Tile& tile, float* c) {
    for (int64_t t = 0; t < matrix.count; ++t) {
      const Term& term = matrix.terms[t];
      float* sum = t == 0 ? c : scratch_.data();
      const bool single = term.count == 1;
      factor(term.factors[0], single ? term.shift : 0.0f, tile, sum);
      for (int64_t f = 1; f < term.count; ++f) {
        float* other = scratch_.data() + kTile * kTile;
        factor(term.factors[f], 0.0f, tile, other);
        ops_.multiply_by(sum, other);
      }
      if (!single || term.weight != 1.0f) ops_.shift_and_scale(sum, single ? 0.0f : term.shift, term.weight);
      if (t > 0) ops_.add(c, sum);
    }
  }

  // c[i][j] = -|x_i - x_j|^2 / 2 or -|x_i - x_j|_1.
  void distances(const BlockPair& pair, Distance distance, const Tile& tile, float* c) {
    if (distance == Distance::manhattan)
      return ops_.differences(at_i(pair, tile), at_j(pair, tile), pair.depth, false, c);
    halves(pair, tile);
    products(pair, tile, c);
    ops_.subtract_halves(c, half_i_, half_j_);
    mend(pair, tile, Lost::distance, 1.0f, c);
  }

 private:
  static const float* at_i(const BlockPair& pair, const Tile& tile) { return pair.rows_i + tile.i * pair.depth; }
  static const float* at_j(const BlockPair& pair, const Tile& tile) { return pair.rows_j + tile.j * pair.depth; }

  void products(const BlockPair& pair, const Tile& tile, float* c) const {
    ops_.multiply(at_i(pair, tile), at_j(pair, tile), pair.depth, c);
  }

  void halves(const BlockPair& pair, const Tile& tile) {
    copy_padded(pair.half_i + tile.i, tile.rows, half_i_);
    copy_padded(pair.half_j + tile.j, tile.columns, half_j_);
  }

  void factor(const Factor& one, float shift, const Tile& tile, float* c) {
    const BlockPair& pair = one.pair;
    if (one.kernel == Kernel::laplacian_l1) {
      ops_.differences(at_i(pair, tile), at_j(pair, tile), pair.depth, false, c);
      return ops_.exponential(c, one.gain, shift);
    }
    products(pair, tile, c);
    if (one.kernel == Kernel::linear) {
      if (shift != 0) ops_.shift_and_scale(c, shift, 1.0f);
      return;
    }
    halves(pair, tile);
    switch (one.kernel) {
      case Kernel::polynomial:
        ops_.polynomial(c, half_i_, half_j_, one.gain, one.coefficients, one.degree);
        if (shift != 0) ops_.shift_and_scale(c, shift, 1.0f);
        return;
      case Kernel::rbf:
        if (!far_from_the_middle(one.gain)) return ops_.rbf(c, half_i_, half_j_, one.gain, shift);
        ops_.subtract_halves(c, half_i_, half_j_);
        mend(pair, tile, Lost::rbf, one.gain, c);
        return ops_.exponential(c, one.gain, shift);
      default:  // laplacian_l2
        ops_.subtract_halves(c, half_i_, half_j_);
        mend(pair, tile, Lost::laplacian, one.gain, c);
        return ops_.root_exponential(c, one.gain, shift);
    }
  }

  // Whether exponents of this tile may err by more than 2^-15: a product errs by about 2^-22 of the halves.
  bool far_from_the_middle(float gain) const {
    return gain * (*std::max_element(half_i_, half_i_ + kTile) + *std::max_element(half_j_, half_j_ + kTile)) > 128.0f;
  }

  // Takes the distances that the float32 products lost from the differences of the rows: one by one where they are few,
  // the whole tile at once, at about twice the cost of its products, where they are many.
  void mend(const BlockPair& pair, const Tile& tile, Lost lost, float gain, float* c) {
    constexpr int32_t kFew = 64;
    lost_.resize(kTile * kTile);
    const int32_t found = ops_.lost(c, half_i_, half_j_, lost, gain, lost_.data());
    int32_t count = 0;
    for (int32_t h = 0; h < found; ++h)
      if (!(tile.diagonal && lost_[h].row == lost_[h].column)) lost_[count++] = lost_[h];
    if (count > kFew) return ops_.differences(at_i(pair, tile), at_j(pair, tile), pair.depth, true, c);
    for (int32_t h = 0; h < count; ++h) {
      const int64_t i = tile.i + lost_[h].row, j = tile.j + lost_[h].column;
      const float* a = pair.rows_i + i / kPanel * kPanel * pair.depth + i % kPanel;
      const float* b = pair.rows_j + j / kPanel * kPanel * pair.depth + j % kPanel;
      double sum = 0;
      for (int64_t k = 0; k < pair.depth; ++k) {
        const double difference = static_cast<double>(a[k * kPanel]) - b[k * kPanel];
        sum += difference * difference;
      }
      c[lost_[h].row * kTile + lost_[h].column] = static_cast<float>(-sum / 2);
    }
  }

  const TileOps& ops_ = tile_ops();
  TileBuffer scratch_;  // a term, and a factor of it
  std::vector<Place> lost_;
  alignas(64) float half_i_[kTile], half_j_[kTile];
};

}  // namespace repsim::cpu
