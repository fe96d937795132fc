// The GPU operations in Python: addresses to pointers, names to values, forward.
//
// Tensors come as their addresses. A tile takes tens of microseconds, and as many would go by for every tensor that is
// handed over as one; repsim/reductions/device.py, the only caller, knows what they are.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <cstdint>
#include <string>
#include <tuple>
#include <vector>

#include "cuda/ops.h"
#include "named.h"

namespace nb = nanobind;
using namespace nb::literals;
namespace cuda = repsim::cuda;

namespace {

using Address = std::uintptr_t;

template <class T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

void* stream_of(Address stream) { return reinterpret_cast<void*>(stream); }

constexpr repsim::Name<cuda::Words> kWords[] = {
    {"float32", cuda::Words::float32}, {"tfloat32", cuda::Words::tfloat32}, {"bfloat16", cuda::Words::bfloat16}};

// address, dtype, rows, depth, elements from row to row
using SourceTuple = std::tuple<Address, std::string, int64_t, int64_t, int64_t>;

repsim::Source source(const SourceTuple& x) {
  const auto& [data, dtype, rows, depth, stride] = x;
  return {at<const void>(data), repsim::named("dtype", repsim::kDTypes, dtype), rows, depth, stride};
}

// first_i, rows, first_j, columns, pitch, diagonal
using TileTuple = std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t, bool>;

cuda::Tile tile_of(const TileTuple& tile) {
  const auto& [first_i, rows, first_j, columns, pitch, diagonal] = tile;
  if (!(first_i >= 0 && first_j >= 0 && rows > 0 && columns > 0 && columns <= pitch && pitch % repsim::kTile == 0) ||
      (diagonal && (first_i != first_j || rows != columns)))
    throw nb::value_error("tile: expected rows and columns inside of a pitch of a multiple of 192");
  return {first_i, rows, first_j, columns, pitch, diagonal};
}

// products, rows_i, rows_j, words, width, half_i, half_j
using PairTuple = std::tuple<Address, Address, Address, std::string, int64_t, Address, Address>;

cuda::TilePair pair_of(const PairTuple& pair) {
  const auto& [products, rows_i, rows_j, words, width, half_i, half_j] = pair;
  return {at<const float>(products),
          at<const void>(rows_i),
          at<const void>(rows_j),
          repsim::named("words", kWords, words),
          width,
          at<const float>(half_i),
          at<const float>(half_j)};
}

// pair, kernel, gain, coefficients
using FactorTuple = std::tuple<PairTuple, std::string, float, std::vector<float>>;
using MatrixTuples = repsim::MatrixTuples<FactorTuple>;

// Matrices as the operations take them, and the memory that they point to.
class Matrices {
 public:
  explicit Matrices(const MatrixTuples& given) {
    if (given.empty() || given.size() > 2) throw nb::value_error("matrices: expected one or two");
    for (const auto& terms : given)
      for (const auto& [factors, shift, weight] : terms)
        for (const auto& [pair, kernel, gain, coefficients] : factors)
          factors_.push_back({pair_of(pair), repsim::named("kernel", repsim::kKernels, kernel), gain,
                              coefficients.data(), static_cast<int>(coefficients.size()) - 1});
    repsim::nest(given, factors_, terms_, matrices_);
  }
  Matrices(const Matrices&) = delete;
  const cuda::TileMatrix* data() const { return matrices_.data(); }
  int count() const { return static_cast<int>(matrices_.size()); }

 private:
  std::vector<cuda::TileFactor> factors_;
  std::vector<cuda::TileTerm> terms_;
  std::vector<cuda::TileMatrix> matrices_;
};

void expect_count(const std::vector<Address>& addresses, size_t count) {
  if (addresses.size() != count) throw nb::value_error("addresses: expected one for every result, 0 for none");
}

void squared_norms(const SourceTuple& x, Address shift, Address scale, Address offset, Address norms, Address stream) {
  const repsim::Source rows = source(x);
  nb::gil_scoped_release release;
  cuda::squared_norms(rows, at<const double>(shift), at<const double>(scale), at<const double>(offset),
                      at<double>(norms), stream_of(stream));
}

void project_rows(const SourceTuple& x, Address shift, Address vector, Address products, Address stream) {
  const repsim::Source rows = source(x);
  nb::gil_scoped_release release;
  cuda::project_rows(rows, at<const double>(shift), at<const double>(vector), at<double>(products), stream_of(stream));
}

void pack_rows(const SourceTuple& x, Address shift, Address scale, Address offset, const std::string& words,
               Address packed, int64_t room, int64_t width, Address halves, Address residuals, Address stream) {
  const repsim::Source rows = source(x);
  if (room < rows.rows || width < rows.depth) throw nb::value_error("packed: expected room for the rows");
  const cuda::Words kind = repsim::named("words", kWords, words);
  nb::gil_scoped_release release;
  cuda::pack_rows(rows, at<const double>(shift), at<const double>(scale), at<const double>(offset), kind,
                  at<void>(packed), room, width, at<float>(halves), at<float>(residuals), stream_of(stream));
}

void manhattan_tile(Address rows_i, Address rows_j, int64_t width, const TileTuple& tile, Address distances,
                    Address stream) {
  const cuda::Tile where = tile_of(tile);
  nb::gil_scoped_release release;
  cuda::manhattan_tile(at<const float>(rows_i), at<const float>(rows_j), width, where, at<float>(distances),
                       stream_of(stream));
}

void bfloat16_tile(Address rows_i, Address rows_j, int64_t width, const TileTuple& tile, Address products,
                   Address stream) {
  const cuda::Tile where = tile_of(tile);
  if (width % 8 != 0 || rows_i % 16 != 0 || rows_j % 16 != 0)
    throw nb::value_error("rows: expected whole sixteen bytes, 8 features at a time");
  nb::gil_scoped_release release;
  cuda::bfloat16_tile(at<const void>(rows_i), at<const void>(rows_j), width, where, at<float>(products),
                      stream_of(stream));
}

void kernel_sums(const MatrixTuples& given, const TileTuple& tile, int row_bits, Address values,
                 const std::vector<Address>& row_sums, const std::vector<Address>& products, Address stream) {
  const Matrices matrices(given);
  const cuda::Tile where = tile_of(tile);
  expect_count(row_sums, 2);
  expect_count(products, 3);
  cuda::SumsOut out{at<float>(values), {}, {}};
  for (size_t c = 0; c < 2; ++c) out.row_sums[c] = at<int64_t>(row_sums[c]);
  for (size_t c = 0; c < 3; ++c) out.products[c] = at<int64_t>(products[c]);
  nb::gil_scoped_release release;
  cuda::kernel_sums(matrices.data(), matrices.count(), where, row_bits, out, stream_of(stream));
}

void kernel_pair_sums(const MatrixTuples& given, const TileTuple& tile, int row_bits,
                      const std::vector<Address>& pair_sums, Address stream) {
  const Matrices matrices(given);
  const cuda::Tile where = tile_of(tile);
  expect_count(pair_sums, 3);
  int64_t* sums[3];
  for (size_t c = 0; c < 3; ++c) sums[c] = at<int64_t>(pair_sums[c]);
  nb::gil_scoped_release release;
  cuda::kernel_pair_sums(matrices.data(), matrices.count(), where, row_bits, sums, stream_of(stream));
}

void kernel_vector_sums(const MatrixTuples& given, const TileTuple& tile, int row_bits,
                        const std::vector<Address>& vectors, const std::vector<Address>& vector_sums, Address stream) {
  const Matrices matrices(given);
  const cuda::Tile where = tile_of(tile);
  expect_count(vectors, static_cast<size_t>(matrices.count()));
  expect_count(vector_sums, 4);
  const float* from[2] = {};
  int64_t* sums[4];
  for (size_t c = 0; c < vectors.size(); ++c) from[c] = at<const float>(vectors[c]);
  for (size_t c = 0; c < 4; ++c) sums[c] = at<int64_t>(vector_sums[c]);
  nb::gil_scoped_release release;
  cuda::kernel_vector_sums(matrices.data(), matrices.count(), where, row_bits, from, sums, stream_of(stream));
}

void distance_histogram(const PairTuple& pair, const std::string& distance, const TileTuple& tile, int dropped,
                        uint32_t first, Address bins, int64_t bin_count, Address below, Address stream) {
  const cuda::TilePair both = pair_of(pair);
  const cuda::Tile where = tile_of(tile);
  const repsim::Distance kind = repsim::named("distance", repsim::kDistances, distance);
  if (!(dropped >= 0 && dropped <= 23 && first < 0x7f800000u >> dropped && bin_count > 0))
    throw nb::value_error("bins: expected some of finite distances, and 0 to 23 bits dropped");
  nb::gil_scoped_release release;
  cuda::distance_histogram(both, kind, where, dropped, first, at<int64_t>(bins), bin_count, at<int64_t>(below),
                           stream_of(stream));
}

// keys, counts, floors, capacity
using CandidateTuple = std::tuple<Address, Address, Address, int64_t>;

cuda::Candidates candidates_of(const CandidateTuple& candidates, int64_t kept) {
  const auto& [keys, counts, floors, capacity] = candidates;
  if (kept < 1 || capacity < kept + cuda::kLeastSpare || capacity > cuda::kMostCapacity ||
      (capacity & (capacity - 1)) != 0)
    throw nb::value_error("candidates: expected a capacity of a power of two, above those kept and at most 2048");
  return {at<uint64_t>(keys), at<int32_t>(counts), at<uint64_t>(floors), capacity};
}

void nearest(Address products, Address half_i, Address half_j, const TileTuple& tile, bool same_rows, int64_t kept,
             const CandidateTuple& candidates, Address stream) {
  const cuda::Tile where = tile_of(tile);
  const cuda::Candidates best = candidates_of(candidates, kept);
  nb::gil_scoped_release release;
  cuda::nearest(at<const float>(products), at<const float>(half_i), at<const float>(half_j), where, same_rows, kept,
                best, stream_of(stream));
}

// x, base, metric, squared norms of both (cosine), own, k
using RankingTuple = std::tuple<SourceTuple, SourceTuple, std::string, Address, Address, Address, int64_t>;

repsim::Ranking ranking_of(const RankingTuple& ranking) {
  const auto& [x, base, metric, squared, base_squared, own, k] = ranking;
  return {source(x),
          source(base),
          repsim::named("metric", repsim::kMetrics, metric),
          at<const double>(squared),
          at<const double>(base_squared),
          at<const int64_t>(own),
          k};
}

constexpr repsim::Name<repsim::Filter> kFilters[] = {{"float32", repsim::Filter::float32},
                                                     {"bfloat16", repsim::Filter::bfloat16},
                                                     {"bfloat16x3", repsim::Filter::bfloat16x3},
                                                     {"bfloat16x6", repsim::Filter::bfloat16x6}};

// filter, halves, residuals, unit, ratio, floor, longest, coarsest, heavy, their number, kept
using CertificateTuple =
    std::tuple<std::string, Address, Address, double, double, double, double, double, Address, int64_t, int64_t>;

repsim::Certificate certificate_of(const CertificateTuple& certificate) {
  const auto& [filter, halves, residuals, unit, ratio, floor, longest, coarsest, heavy, heavy_count, kept] =
      certificate;
  return {repsim::named("filter", kFilters, filter),
          at<const float>(halves),
          at<const float>(residuals),
          unit,
          ratio,
          floor,
          longest,
          coarsest,
          at<const int64_t>(heavy),
          heavy_count,
          kept};
}

void rank_neighbours(const RankingTuple& ranked, const CandidateTuple& candidates, const CertificateTuple& certificate,
                     Address indices, Address scores, Address open, Address unbounded, Address stream) {
  const repsim::Ranking ranking = ranking_of(ranked);
  const repsim::Certificate known = certificate_of(certificate);
  const cuda::Candidates best = candidates_of(candidates, known.kept);
  if (known.kept < ranking.k || known.heavy_count > cuda::kLeastSpare)
    throw nb::value_error("certificate: expected at least k kept, and at most 64 heavy rows");
  nb::gil_scoped_release release;
  cuda::rank_neighbours(ranking, best, known, at<int64_t>(indices), at<double>(scores), at<uint8_t>(open),
                        at<int32_t>(unbounded), stream_of(stream));
}

void settle_neighbours(Address products, Address half_i, Address half_j, const TileTuple& tile,
                       const RankingTuple& ranked, const CertificateTuple& certificate, Address indices, Address scores,
                       Address unbounded, Address stream) {
  const cuda::Tile where = tile_of(tile);
  const repsim::Ranking ranking = ranking_of(ranked);
  const repsim::Certificate known = certificate_of(certificate);
  if (where.rows > ranking.x.rows || where.first_j + where.columns > ranking.base.rows)
    throw nb::value_error("tile: expected rows of x against rows of the base");
  nb::gil_scoped_release release;
  cuda::settle_neighbours(at<const float>(products), at<const float>(half_i), at<const float>(half_j), where, ranking,
                          known, at<int64_t>(indices), at<double>(scores), at<int32_t>(unbounded), stream_of(stream));
}

}  // namespace

NB_MODULE(_cuda, m) {
  m.doc() = "The native operations of repsim on the GPU. csrc/cuda/ops.h states each one.";
  m.attr("SLOTS") = cuda::kSlots;
  m.attr("NO_FLOOR") = cuda::kNoFloor;
  m.attr("LEAST_SPARE") = cuda::kLeastSpare;
  m.attr("MOST_CAPACITY") = cuda::kMostCapacity;
  m.attr("MOST_FACTORS") = cuda::kMostFactors;
  m.attr("MOST_COEFFICIENTS") = cuda::kMostCoefficients;
  m.def("device_count", &cuda::device_count);
  m.def("set_device", &cuda::set_device, "number"_a);
  m.def("squared_norms", &squared_norms, "x"_a, "shift"_a, "scale"_a, "offset"_a, "norms"_a, "stream"_a);
  m.def("project_rows", &project_rows, "x"_a, "shift"_a, "vector"_a, "products"_a, "stream"_a);
  m.def("pack_rows", &pack_rows, "x"_a, "shift"_a, "scale"_a, "offset"_a, "words"_a, "packed"_a, "room"_a, "width"_a,
        "halves"_a, "residuals"_a, "stream"_a);
  m.def("manhattan_tile", &manhattan_tile, "rows_i"_a, "rows_j"_a, "width"_a, "tile"_a, "distances"_a, "stream"_a);
  m.def("bfloat16_tile", &bfloat16_tile, "rows_i"_a, "rows_j"_a, "width"_a, "tile"_a, "products"_a, "stream"_a);
  m.def("kernel_sums", &kernel_sums, "matrices"_a, "tile"_a, "row_bits"_a, "values"_a, "row_sums"_a, "products"_a,
        "stream"_a);
  m.def("kernel_pair_sums", &kernel_pair_sums, "matrices"_a, "tile"_a, "row_bits"_a, "pair_sums"_a, "stream"_a);
  m.def("kernel_vector_sums", &kernel_vector_sums, "matrices"_a, "tile"_a, "row_bits"_a, "vectors"_a, "vector_sums"_a,
        "stream"_a);
  m.def("distance_histogram", &distance_histogram, "pair"_a, "distance"_a, "tile"_a, "dropped"_a, "first"_a, "bins"_a,
        "bin_count"_a, "below"_a, "stream"_a);
  m.def("nearest", &nearest, "products"_a, "half_i"_a, "half_j"_a, "tile"_a, "same_rows"_a, "kept"_a, "candidates"_a,
        "stream"_a);
  m.def("rank_neighbours", &rank_neighbours, "ranking"_a, "candidates"_a, "certificate"_a, "indices"_a, "scores"_a,
        "open"_a, "unbounded"_a, "stream"_a);
  m.def("settle_neighbours", &settle_neighbours, "products"_a, "half_i"_a, "half_j"_a, "tile"_a, "ranking"_a,
        "certificate"_a, "indices"_a, "scores"_a, "unbounded"_a, "stream"_a);
}
