// The debiased linear HSIC and the nearest neighbours of numpy arrays, through repsim/ops.h alone.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <repsim/ops.h>

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <numeric>
#include <vector>

namespace py = pybind11;
using Rows = py::array_t<float, py::array::c_style>;

// All rows as one block, times a factor.
struct Packed {
  struct Panels : std::vector<float> {
    float* aligned() { return data() + (-reinterpret_cast<uintptr_t>(data()) % 64) / sizeof(float); }
  };
  Panels panels;
  std::vector<float> halves;
  repsim::Source source;
  Packed(const Rows& x, double factor, int threads) : halves(x.shape(0)) {
    const int64_t n = x.shape(0), depth = x.shape(1);
    source = {x.data(), repsim::DType::float32, n, depth, depth};
    panels.resize((n + repsim::kTile - 1) / repsim::kTile * repsim::kTile * depth + 16);
    const std::vector<double> scale(n, factor);
    repsim::pack_rows(source, nullptr, scale.data(), nullptr, panels.aligned(), halves.data(), threads);
  }
  repsim::BlockPair with_itself() {
    return {panels.aligned(), panels.aligned(), halves.data(), halves.data(), source.depth};
  }
};

double longest(const Rows& x, int threads) {
  std::vector<double> norms(x.shape(0));
  repsim::squared_norms({x.data(), repsim::DType::float32, x.shape(0), x.shape(1), x.shape(1)}, nullptr, norms.data(),
                        threads);
  return std::sqrt(*std::max_element(norms.begin(), norms.end()));
}

// HSIC_1 from sums over i != j: (sum KL + sum K sum L / ((n - 1)(n - 2)) - 2 / (n - 2) r_K . r_L) / (n (n - 3)).
double hsic(const Rows& x, const Rows& y, int threads) {
  const int64_t n = x.shape(0);
  constexpr int bits = 40;
  const double unit_x = 1 / longest(x, threads), unit_y = 1 / longest(y, threads);  // |K| <= 1
  Packed packed[] = {{x, unit_x, threads}, {y, unit_y, threads}};
  repsim::Factor factors[2];
  repsim::Term terms[2];
  repsim::KernelMatrix matrices[2];
  for (int p = 0; p < 2; ++p) {
    factors[p] = {packed[p].with_itself(), repsim::Kernel::linear, 1.0f, nullptr, 0};
    terms[p] = {&factors[p], 1, 0.0f, 1.0f};
    matrices[p] = {&terms[p], 1};
  }
  std::vector<int64_t> sums(2 * n), products(2 * 2 * 2);
  repsim::kernel_sums(matrices, 2, 1, {0, n, 0, n}, n, bits, sums.data(), products.data(), threads);
  const double product = std::ldexp(std::ldexp(double(products[2]), 32) + double(products[3]), -repsim::kProductBits);
  double total_x = 0, total_y = 0, cross = 0;
  for (int64_t i = 0; i < n; ++i) {
    const double r = std::ldexp(double(sums[i]), -bits), s = std::ldexp(double(sums[n + i]), -bits);
    total_x += r;
    total_y += s;
    cross += r * s;
  }
  const double m = double(n);
  const double centred = product + total_x * total_y / ((m - 1) * (m - 2)) - 2 / (m - 2) * cross;
  return centred / (m * (m - 3)) / (unit_x * unit_x * unit_y * unit_y);
}

// Indices [n, k] and float64 scores [n, k] of the Euclidean metric.
py::tuple nearest(const Rows& x, int64_t k, int threads) {
  const int64_t n = x.shape(0), kept = std::min(k + 8, n - 1), capacity = 2 * kept + 16;
  Packed packed(x, 1.0, threads);  // float32 rows as they are: packing loses nothing
  const repsim::BlockPair both = packed.with_itself();
  const repsim::SearchPair pair{both.rows_i, both.rows_j, both.half_i,
                                both.half_j, both.depth,  repsim::Filter::float32};
  std::vector<uint64_t> keys(n * capacity);
  std::vector<int32_t> counts(n);
  std::vector<float> thresholds(n, -FLT_MAX), residuals(n);
  std::vector<int64_t> own(n);
  std::iota(own.begin(), own.end(), 0);
  std::vector<uint8_t> open(n);
  const repsim::Candidates candidates{keys.data(), counts.data(), thresholds.data(), capacity};
  const repsim::Ranking ranking{
      packed.source, packed.source, repsim::Metric::euclidean, nullptr, nullptr, own.data(), k};
  repsim::Certificate certificate{};
  certificate.filter = repsim::Filter::float32;
  certificate.halves = packed.halves.data();
  certificate.residuals = residuals.data();
  certificate.unit = 1.0;
  certificate.longest = longest(x, threads);
  certificate.kept = kept;
  py::array_t<int64_t> indices({n, k});
  py::array_t<double> scores({n, k});
  repsim::nearest(pair, repsim::Metric::euclidean, {0, n, 0, n}, true, kept, candidates, threads);
  if (repsim::rank_neighbours(ranking, candidates, certificate, indices.mutable_data(), scores.mutable_data(),
                              open.data(), threads) > 0)
    repsim::settle_neighbours(pair, {0, n, 0, n}, ranking, certificate, indices.mutable_data(), scores.mutable_data(),
                              threads);
  return py::make_tuple(indices, scores);
}

PYBIND11_MODULE(example, m) {
  m.def("hsic", &hsic);
  m.def("nearest", &nearest);
}
