// Reading rows: squared norms, products with a vector, packing. Parallel axis: rows, a warp each. Bytes: the rows once.
//
// Lane l adds features l, l + 32, ...; the lanes are added in the order of the CPU's chains. With no fused
// multiply-adds (the build says so) all float64 sums, and so the packed rows, are the bits of the CPU.
#include <cmath>

#include "../element.h"
#include "execution.h"
#include "ops.h"

namespace repsim::cuda {
namespace {

constexpr int kRowWarps = 8;

// Of all lanes, as csrc/cpu/row_ops.cpp adds its 32 sums.
REPSIM_DEVICE double total(const Warp& warp, const PerLane<double>& sums) { return warp.sum(sums, 8, 16, 1, 2, 4); }

template <class Element>
struct Reader {
  const Element* data;
  int64_t stride;
  const double* shift;
  const double* scale;
  const double* offset;

  // (x_i - shift) scale[i] - offset, feature k
  REPSIM_DEVICE double operator()(int64_t i, int64_t k) const {
    double value = widen(data[i * stride + k]);
    if (shift) value -= shift[k];
    if (scale) value *= scale[i];
    if (offset) value -= offset[k];
    return value;
  }
};

// Calls row(warp, i) for every row below `rows`.
template <class Row>
REPSIM_DEVICE void each_row(const Block& block, int64_t rows, Row row) {
  block.each_warp([&](const Warp& warp) {
    const int64_t i = block.index() * kRowWarps + warp.number;
    if (i < rows) row(warp, i);
  });
}

int64_t row_blocks(int64_t rows) { return (rows + kRowWarps - 1) / kRowWarps; }

template <class Element>
struct Norms {
  static constexpr int kThreads = kRowWarps * kLanes, kResident = 4;
  Reader<Element> read;
  int64_t rows, depth;
  double* norms;

  REPSIM_DEVICE void operator()(const Block& block, unsigned char*) const {
    each_row(block, rows, [&](const Warp& warp, int64_t i) {
      PerLane<double> sum;
      warp.each_lane([&](int lane) {
        sum[lane] = 0;
        for (int64_t k = lane; k < depth; k += kLanes) {
          const double value = read(i, k);
          sum[lane] += value * value;
        }
      });
      const double norm = total(warp, sum);
      warp.each_lane([&](int lane) {
        if (lane == 0) norms[i] = norm;
      });
    });
  }
};

template <class Element>
struct Project {
  static constexpr int kThreads = kRowWarps * kLanes, kResident = 4;
  Reader<Element> read;
  int64_t rows, depth;
  const double* vector;
  double* products;

  REPSIM_DEVICE void operator()(const Block& block, unsigned char*) const {
    each_row(block, rows, [&](const Warp& warp, int64_t i) {
      PerLane<double> sum;
      warp.each_lane([&](int lane) {
        sum[lane] = 0;
        for (int64_t k = lane; k < depth; k += kLanes) sum[lane] += read(i, k) * vector[k];
      });
      const double product = total(warp, sum);
      warp.each_lane([&](int lane) {
        if (lane == 0) products[i] = product;
      });
    });
  }
};

// To nearest, ties to even, with so many of the 23 bits dropped.
template <int dropped>
REPSIM_DEVICE uint32_t rounded(float x) {
  const uint32_t bits = bits_of(x);
  return (bits + (1u << (dropped - 1)) - 1 + (bits >> dropped & 1)) >> dropped << dropped;
}

// Each stores a feature and returns what was stored.
struct IntoFloat32 {
  using Word = float;
  REPSIM_DEVICE static float store(float value, Word* to) { return *to = value; }
};
struct IntoTfloat32 {
  using Word = float;
  REPSIM_DEVICE static float store(float value, Word* to) { return *to = float_of(rounded<13>(value)); }
};
struct IntoBfloat16 {
  using Word = uint16_t;
  REPSIM_DEVICE static float store(float value, Word* to) {
    uint32_t bits = rounded<16>(value);
    if ((bits & 0x7f800000u) == 0) bits = 0;  // subnormals, as on the CPU
    *to = static_cast<uint16_t>(bits >> 16);
    return float_of(bits);
  }
};

template <class Element, class Into>
struct Pack {
  static constexpr int kThreads = kRowWarps * kLanes, kResident = 4;
  Reader<Element> read;
  int64_t rows, depth;
  typename Into::Word* packed;
  int64_t room, width;
  float* halves;
  float* residuals;

  REPSIM_DEVICE void operator()(const Block& block, unsigned char*) const {
    each_row(block, room, [&](const Warp& warp, int64_t i) {
      const int64_t features = i < rows ? depth : 0;
      PerLane<double> squares, misses;
      warp.each_lane([&](int lane) {
        squares[lane] = misses[lane] = 0;
        for (int64_t k = lane; k < width; k += kLanes) {
          const double value = k < features ? read(i, k) : 0.0;
          const double stored = Into::store(static_cast<float>(value), packed + i * width + k);
          squares[lane] += stored * stored;
          misses[lane] += (stored - value) * (stored - value);
        }
      });
      if (i >= rows) return;
      const double square = total(warp, squares), missed = total(warp, misses);
      warp.each_lane([&](int lane) {
        if (lane != 0) return;
        halves[i] = static_cast<float>(square / 2);
        // What rounding to float32 takes here, and what float64 had lost before, only raise it.
        if (residuals)
          residuals[i] = static_cast<float>(std::sqrt(missed) * (1 + 0x1p-20) + std::sqrt(square) * 0x1p-48);
      });
    });
  }
};

template <class Element>
Reader<Element> reader(const Element* data, const Source& x, const double* shift, const double* scale,
                       const double* offset) {
  return {data, x.row_stride, shift, scale, offset};
}

}  // namespace

int device_count() { return count_devices(); }

void set_device(int number) { use_device(number); }

void squared_norms(const Source& x, const double* shift, const double* scale, const double* offset, double* norms,
                   void* stream) {
  with_elements(x, [&]<class Element>(const Element* data) {
    launch(Norms<Element>{reader(data, x, shift, scale, offset), x.rows, x.depth, norms}, row_blocks(x.rows), 0,
           stream);
  });
}

void project_rows(const Source& x, const double* shift, const double* vector, double* products, void* stream) {
  with_elements(x, [&]<class Element>(const Element* data) {
    launch(Project<Element>{reader(data, x, shift, nullptr, nullptr), x.rows, x.depth, vector, products},
           row_blocks(x.rows), 0, stream);
  });
}

void pack_rows(const Source& x, const double* shift, const double* scale, const double* offset, Words words,
               void* packed, int64_t room, int64_t width, float* halves, float* residuals, void* stream) {
  with_elements(x, [&]<class Element>(const Element* data) {
    const auto pack = [&]<class Into>(Into) {
      launch(Pack<Element, Into>{reader(data, x, shift, scale, offset), x.rows, x.depth,
                                 static_cast<typename Into::Word*>(packed), room, width, halves, residuals},
             row_blocks(room), 0, stream);
    };
    switch (words) {
      case Words::float32:
        return pack(IntoFloat32{});
      case Words::tfloat32:
        return pack(IntoTfloat32{});
      case Words::bfloat16:
        return pack(IntoBfloat16{});
    }
  });
}

}  // namespace repsim::cuda
