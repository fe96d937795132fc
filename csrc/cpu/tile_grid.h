// The tiles of a pair of blocks: how many, where each lies, which of its rows and columns exist.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <new>

#include "../ops.h"

namespace repsim::cpu {

struct Tile {
  int64_t i, j;           // first row and column inside their blocks
  int64_t rows, columns;  // how many exist, at most 192
  bool diagonal;          // the tile's rows are its columns
};

class TileGrid {
 public:
  TileGrid(const BlockRange& range, bool triangle) : range_(range), triangle_(triangle) {
    across_ = tiles(range.rows_j);
    down_ = tiles(range.rows_i);
    count_ = triangle ? down_ * (down_ + 1) / 2 : down_ * across_;
  }

  int64_t count() const { return count_; }

  Tile at(int64_t number) const {
    int64_t ti, tj;
    if (triangle_) {
      // Row ti of the upper triangle begins at ti * down - ti (ti - 1) / 2.
      const double b = 2.0 * static_cast<double>(down_) + 1.0;
      ti = static_cast<int64_t>((b - std::sqrt(b * b - 8.0 * static_cast<double>(number))) / 2.0);
      while (begin(ti + 1) <= number) ++ti;
      while (begin(ti) > number) --ti;
      tj = ti + (number - begin(ti));
    } else {
      ti = number / across_;
      tj = number % across_;
    }
    return {ti * kTile, tj * kTile, std::min(kTile, range_.rows_i - ti * kTile),
            std::min(kTile, range_.rows_j - tj * kTile), triangle_ && ti == tj};
  }

 private:
  static int64_t tiles(int64_t rows) { return (rows + kTile - 1) / kTile; }
  int64_t begin(int64_t ti) const { return ti * down_ - ti * (ti - 1) / 2; }

  BlockRange range_;
  bool triangle_;
  int64_t across_, down_, count_;
};

// Memory aligned to 64 bytes: whole vectors load and store.
template <class T>
class Buffer {
 public:
  explicit Buffer(int64_t size) : data_(static_cast<T*>(std::aligned_alloc(64, size * sizeof(T)))) {
    if (!data_) throw std::bad_alloc();
  }
  Buffer(Buffer&& other) noexcept : data_(other.data_) { other.data_ = nullptr; }
  Buffer(const Buffer&) = delete;
  ~Buffer() { std::free(data_); }
  T* data() const { return data_; }

 private:
  T* data_;
};
using TileBuffer = Buffer<float>;

// Overwrites what is no pair: the diagonal of a diagonal tile, and the padding beyond the last row and column.
inline void fill_absent(float* c, const Tile& tile, bool with_diagonal, float value) {
  if (tile.diagonal && with_diagonal)
    for (int64_t i = 0; i < kTile; ++i) c[i * kTile + i] = value;
  if (tile.columns < kTile)
    for (int64_t i = 0; i < tile.rows; ++i) std::fill(c + i * kTile + tile.columns, c + (i + 1) * kTile, value);
  if (tile.rows < kTile) std::fill(c + tile.rows * kTile, c + kTile * kTile, value);
}

// 192 values from `from`, zero beyond `valid`.
inline void copy_padded(const float* from, int64_t valid, float* to) {
  std::copy(from, from + valid, to);
  std::fill(to + valid, to + kTile, 0.0f);
}

}  // namespace repsim::cpu
