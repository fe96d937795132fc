// The only file that knows nanobind: check what the types cannot say, release the GIL, forward.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "ops.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

template <class T>
using Vector = nb::ndarray<T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <class T>
using Matrix = nb::ndarray<T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Panels = nb::ndarray<float, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
// bfloat16 rows arrive as their uint16 bits, with the dtype said beside them.
using AnyRows = nb::ndarray<nb::ro, nb::ndim<2>, nb::device::cpu>;

[[noreturn]] void refuse(const std::string& message) { throw nb::value_error(message.c_str()); }

void expect(bool holds, const char* message) {
  if (!holds) refuse(message);
}

repsim::DType dtype_of(const AnyRows& x, const std::string& name) {
  struct Known {
    const char* name;
    nb::dlpack::dtype type;
    repsim::DType dtype;
  };
  static const Known known[] = {{"float16", {2, 16, 1}, repsim::DType::float16},
                                {"bfloat16", {1, 16, 1}, repsim::DType::bfloat16},
                                {"float32", {2, 32, 1}, repsim::DType::float32},
                                {"float64", {2, 64, 1}, repsim::DType::float64}};
  for (const Known& one : known)
    if (name == one.name) {
      expect(x.dtype() == one.type, "rows: expected memory of the dtype that is named, got another");
      return one.dtype;
    }
  refuse("dtype: expected float16, bfloat16, float32 or float64, got " + name);
}

repsim::Source source(const AnyRows& x, const std::string& dtype) {
  expect(x.shape(1) <= 1 || x.stride(1) == 1, "rows: expected features next to each other");
  return {x.data(), dtype_of(x, dtype), static_cast<int64_t>(x.shape(0)), static_cast<int64_t>(x.shape(1)),
          x.stride(0)};
}

repsim::Metric metric_of(const std::string& name) {
  if (name == "cosine") return repsim::Metric::cosine;
  if (name == "inner_product") return repsim::Metric::inner_product;
  if (name == "euclidean") return repsim::Metric::euclidean;
  refuse("metric: expected cosine, inner_product or euclidean, got " + name);
}

int64_t panel_count(int64_t rows) {
  return (rows + repsim::kTile - 1) / repsim::kTile * (repsim::kTile / repsim::kPanel);
}

struct Block {
  Panels panels;
  Vector<float> halves;
  int64_t depth() const { return static_cast<int64_t>(panels.shape(1)); }
};

void check_block(const Block& block, int64_t rows, const char* message) {
  expect(static_cast<int64_t>(block.panels.shape(0)) == panel_count(rows) && block.panels.shape(2) == repsim::kPanel &&
             static_cast<int64_t>(block.halves.shape(0)) == rows,
         message);
}

repsim::BlockPair block_pair(const nb::tuple& i, const nb::tuple& j, repsim::Kernel kernel, float shift,
                             const repsim::BlockRange& range) {
  const Block left{nb::cast<Panels>(i[0]), nb::cast<Vector<float>>(i[1])};
  const Block right{nb::cast<Panels>(j[0]), nb::cast<Vector<float>>(j[1])};
  check_block(left, range.rows_i, "block i: expected panels and halves of its rows");
  check_block(right, range.rows_j, "block j: expected panels and halves of its rows");
  expect(left.depth() == right.depth(), "blocks: expected one depth");
  return {
      left.panels.data(), right.panels.data(), left.halves.data(), right.halves.data(), left.depth(), kernel, shift};
}

repsim::BlockRange block_range(const std::tuple<int64_t, int64_t, int64_t, int64_t>& range) {
  const auto [first_i, rows_i, first_j, rows_j] = range;
  expect(first_i >= 0 && first_j >= 0 && first_i % repsim::kTile == 0 && first_j % repsim::kTile == 0,
         "range: expected blocks that begin at a multiple of 192");
  expect(rows_i > 0 && rows_j > 0, "range: expected rows");
  expect(first_i != first_j || rows_i == rows_j, "range: expected one size where both blocks begin at the same row");
  return {first_i, rows_i, first_j, rows_j};
}

int64_t column_sums(AnyRows x, const std::string& dtype, Vector<double> sums, int threads) {
  const repsim::Source rows = source(x, dtype);
  expect(static_cast<int64_t>(sums.shape(0)) == rows.depth, "sums: expected one number per column");
  nb::gil_scoped_release release;
  return repsim::column_sums(rows, sums.data(), threads);
}

void squared_norms(AnyRows x, const std::string& dtype, std::optional<Vector<const double>> shift, Vector<double> norms,
                   int threads) {
  const repsim::Source rows = source(x, dtype);
  expect(static_cast<int64_t>(norms.shape(0)) == rows.rows, "norms: expected one number per row");
  expect(!shift || static_cast<int64_t>(shift->shape(0)) == rows.depth, "shift: expected one number per column");
  nb::gil_scoped_release release;
  repsim::squared_norms(rows, shift ? shift->data() : nullptr, norms.data(), threads);
}

void pack_rows(AnyRows x, const std::string& dtype, std::optional<Vector<const double>> shift,
               Vector<const double> scale, Panels panels, Vector<float> halves, int threads) {
  const repsim::Source rows = source(x, dtype);
  expect(static_cast<int64_t>(scale.shape(0)) == rows.rows, "scale: expected one number per row");
  expect(!shift || static_cast<int64_t>(shift->shape(0)) == rows.depth, "shift: expected one number per column");
  expect(static_cast<int64_t>(panels.shape(0)) == panel_count(rows.rows) &&
             static_cast<int64_t>(panels.shape(1)) == rows.depth && panels.shape(2) == repsim::kPanel,
         "panels: expected [12 ceil(rows / 192), depth, 16]");
  expect(static_cast<int64_t>(halves.shape(0)) == rows.rows, "halves: expected one number per row");
  nb::gil_scoped_release release;
  repsim::pack_rows(rows, shift ? shift->data() : nullptr, scale.data(), panels.data(), halves.data(), threads);
}

void kernel_sums(const std::vector<std::tuple<nb::tuple, nb::tuple, std::string, float>>& matrices,
                 const std::tuple<int64_t, int64_t, int64_t, int64_t>& where, int row_bits, Matrix<int64_t> row_sums,
                 nb::ndarray<int64_t, nb::ndim<3>, nb::c_contig, nb::device::cpu> products, int threads) {
  const repsim::BlockRange range = block_range(where);
  std::vector<repsim::BlockPair> pairs;
  for (const auto& [i, j, kernel, shift] : matrices) {
    expect(kernel == "linear" || kernel == "rbf", "kernel: expected linear or rbf");
    pairs.push_back(block_pair(i, j, kernel == "rbf" ? repsim::Kernel::rbf : repsim::Kernel::linear, shift, range));
  }
  const int64_t n = static_cast<int64_t>(row_sums.shape(1));
  expect(row_sums.shape(0) == pairs.size(), "row_sums: expected one row per matrix");
  expect(range.first_i + range.rows_i <= n && range.first_j + range.rows_j <= n,
         "row_sums: expected every row of the blocks");
  expect(products.shape(0) == pairs.size() && products.shape(1) == pairs.size() && products.shape(2) == 2,
         "products: expected [matrices, matrices, 2]");
  nb::gil_scoped_release release;
  repsim::kernel_sums(pairs.data(), static_cast<int64_t>(pairs.size()), range, n, row_bits, row_sums.data(),
                      products.data(), threads);
}

repsim::Candidates candidates_of(const Matrix<uint64_t>& keys, const Vector<int32_t>& counts,
                                 const Vector<float>& thresholds, int64_t k) {
  expect(counts.shape(0) == keys.shape(0) && thresholds.shape(0) == keys.shape(0), "candidates: expected one length");
  expect(k >= 1 && static_cast<int64_t>(keys.shape(1)) > k, "candidates: expected room for more than k");
  return {keys.data(), counts.data(), thresholds.data(), static_cast<int64_t>(keys.shape(1))};
}

void nearest(const nb::tuple& block_i, const nb::tuple& block_j, const std::string& metric,
             const std::tuple<int64_t, int64_t, int64_t, int64_t>& where, bool symmetric, int64_t k,
             Matrix<uint64_t> keys, Vector<int32_t> counts, Vector<float> thresholds, int threads) {
  const auto [first_i, rows_i, first_j, rows_j] = where;
  const repsim::BlockRange range =
      symmetric ? block_range(where) : repsim::BlockRange{first_i, rows_i, first_j, rows_j};
  const repsim::BlockPair pair = block_pair(block_i, block_j, repsim::Kernel::linear, 0.0f, range);
  const repsim::Candidates candidates = candidates_of(keys, counts, thresholds, k);
  const int64_t rows = static_cast<int64_t>(keys.shape(0));
  expect(range.first_i % repsim::kTile == 0 && range.first_i + range.rows_i <= rows &&
             (!symmetric || range.first_j + range.rows_j <= rows),
         "candidates: expected every row of the blocks");
  expect(range.first_j + range.rows_j <= int64_t{1} << 32, "base: expected at most 2^32 rows");
  const repsim::Metric kind = metric_of(metric);
  nb::gil_scoped_release release;
  repsim::nearest(pair, kind, range, symmetric, k, candidates, threads);
}

void rank_neighbours(AnyRows x, const std::string& x_dtype, AnyRows base, const std::string& base_dtype,
                     const std::string& metric, Matrix<uint64_t> keys, Vector<int32_t> counts, Vector<float> thresholds,
                     Matrix<int64_t> indices, Matrix<float> scores, int threads) {
  const repsim::Source rows = source(x, x_dtype), others = source(base, base_dtype);
  const int64_t k = static_cast<int64_t>(indices.shape(1));
  const repsim::Candidates candidates = candidates_of(keys, counts, thresholds, k);
  expect(rows.depth == others.depth, "base: expected the depth of x");
  expect(static_cast<int64_t>(keys.shape(0)) == rows.rows && indices.shape(0) == keys.shape(0) &&
             scores.shape(0) == keys.shape(0) && scores.shape(1) == indices.shape(1),
         "neighbours: expected [rows, k]");
  for (size_t i = 0; i < counts.shape(0); ++i) expect(counts(i) >= k, "candidates: expected at least k in every row");
  const repsim::Metric kind = metric_of(metric);
  nb::gil_scoped_release release;
  repsim::rank_neighbours(rows, others, kind, k, candidates, indices.data(), scores.data(), threads);
}

}  // namespace

NB_MODULE(_core, m) {
  m.doc() = "The native operations of repsim. csrc/ops.h states each one.";
  m.attr("TILE") = repsim::kTile;
  m.attr("PANEL") = repsim::kPanel;
  m.attr("PRODUCT_BITS") = repsim::kProductBits;
  m.def("instruction_set", &repsim::instruction_set);
  m.def("cuda_available", &repsim::cuda::available);
  m.def("column_sums", &column_sums, "x"_a, "dtype"_a, "sums"_a.noconvert(), "threads"_a);
  m.def("squared_norms", &squared_norms, "x"_a, "dtype"_a, "shift"_a.none(), "norms"_a.noconvert(), "threads"_a);
  m.def("pack_rows", &pack_rows, "x"_a, "dtype"_a, "shift"_a.none(), "scale"_a.noconvert(), "panels"_a.noconvert(),
        "halves"_a.noconvert(), "threads"_a);
  m.def("kernel_sums", &kernel_sums, "matrices"_a, "range"_a, "row_bits"_a, "row_sums"_a.noconvert(),
        "products"_a.noconvert(), "threads"_a);
  m.def("nearest", &nearest, "block_i"_a, "block_j"_a, "metric"_a, "range"_a, "symmetric"_a, "k"_a,
        "keys"_a.noconvert(), "counts"_a.noconvert(), "thresholds"_a.noconvert(), "threads"_a);
  m.def("rank_neighbours", &rank_neighbours, "x"_a, "x_dtype"_a, "base"_a, "base_dtype"_a, "metric"_a,
        "keys"_a.noconvert(), "counts"_a.noconvert(), "thresholds"_a.noconvert(), "indices"_a.noconvert(),
        "scores"_a.noconvert(), "threads"_a);
}
