#include "arithmetic.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <type_traits>

namespace repsim::ptx {
namespace {

template <class T>
T in(uint64_t bits) {
  T value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

template <class T>
uint64_t out(T value) {
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  return bits;
}

// Calls `use` with a value of the C++ type of a type of PTX.
template <class Use>
void with_integer(Type type, Use use) {
  const bool sign = type.kind == Kind::sint;
  switch (type.size) {
    case 1:
      return sign ? use(int8_t{}) : use(uint8_t{});
    case 2:
      return sign ? use(int16_t{}) : use(uint16_t{});
    case 4:
      return sign ? use(int32_t{}) : use(uint32_t{});
    default:
      return sign ? use(int64_t{}) : use(uint64_t{});
  }
}
template <class Use>
void with(Type type, Use use) {
  if (type.kind != Kind::real) return with_integer(type, use);
  return type.size == 4 ? use(float{}) : use(double{});
}

template <class T>
using Wrapping = std::conditional_t<std::is_integral_v<T>, std::make_unsigned<T>, std::type_identity<T>>::type;

template <class T>
constexpr bool kReal = std::is_floating_point_v<T>;

template <class T>
T rounded(T x, Rounding rounding) {
  switch (rounding) {
    case Rounding::nearest:
      return std::nearbyint(x);
    case Rounding::zero:
      return std::trunc(x);
    case Rounding::up:
      return std::ceil(x);
    default:
      return std::floor(x);
  }
}

// To an integer: what does not fit becomes the nearest that does, and no number 0.
template <class To, class From>
To to_integer(From x, Rounding rounding) {
  if (std::isnan(x)) return 0;
  const From whole = rounded(x, rounding);
  if (whole >= std::ldexp(From{1}, std::numeric_limits<To>::digits)) return std::numeric_limits<To>::max();
  if (whole < static_cast<From>(std::numeric_limits<To>::min())) return std::numeric_limits<To>::min();
  return static_cast<To>(whole);
}

float to_float(double x, Rounding rounding) {
  const float nearest = static_cast<float>(x);
  if (rounding == Rounding::up && nearest < x) return std::nextafter(nearest, INFINITY);
  if (rounding == Rounding::down && nearest > x) return std::nextafter(nearest, -INFINITY);
  if (rounding == Rounding::zero && std::fabs(nearest) > std::fabs(x)) return std::nextafter(nearest, 0.0f);
  return nearest;
}

template <class To, class From>
To convert(From x, Rounding rounding) {
  if constexpr (!kReal<To> && kReal<From>) return to_integer<To>(x, rounding);
  if constexpr (std::is_same_v<To, float> && std::is_same_v<From, double>) return to_float(x, rounding);
  return static_cast<To>(x);
}

template <class T>
bool holds(Test test, T a, T b) {
  switch (test) {
    case Test::eq:
      return a == b;
    case Test::ne:
      return a < b || a > b;
    case Test::lt:
      return a < b;
    case Test::le:
      return a <= b;
    case Test::gt:
      return a > b;
    case Test::ge:
      return a >= b;
    case Test::unordered_lt:
      return !(a >= b);
    case Test::unordered_le:
      return !(a > b);
    case Test::unordered_gt:
      return !(a <= b);
    case Test::unordered_ge:
      return !(a < b);
    default:
      return !(a == b);
  }
}

template <class T>
T divide(T a, T b) {
  if constexpr (!kReal<T>) {
    if (b == 0) throw std::runtime_error("divides by 0");
    if constexpr (std::is_signed_v<T>)
      if (b == -1) return static_cast<T>(0 - static_cast<std::make_unsigned_t<T>>(a));
  }
  return a / b;
}

float flushed(float x) { return std::fpclassify(x) == FP_SUBNORMAL ? std::copysign(0.0f, x) : x; }

template <class T>
T inserted(T field, T into, uint32_t begin, uint32_t length) {
  constexpr uint32_t kBits = sizeof(T) * 8;
  begin &= 0xff;
  length &= 0xff;
  if (length == 0 || begin >= kBits) return into;
  const T ones = (length >= kBits ? ~T{0} : (T{1} << length) - 1) << begin;
  return (into & ~ones) | (field << begin & ones);
}

uint32_t reversed(uint32_t x) {
  uint32_t y = 0;
  for (int b = 0; b < 32; ++b) y |= (x >> b & 1) << (31 - b);
  return y;
}

// Every lane of the mask: to[0] = make(lane).
class Each {
 public:
  Each(const Instruction& i, uint64_t (*slots)[kLanes], uint32_t mask) : i_(i), slots_(slots), mask_(mask) {}

  const uint64_t* from(size_t at) const { return slots_[i_.from[at]]; }
  uint64_t* to(size_t at) const { return slots_[i_.to[at]]; }

  template <class Work>
  void lane(Work work) const {
    if (mask_ == ~0u)
      for (int l = 0; l < kLanes; ++l) work(l);
    else
      for (int l = 0; l < kLanes; ++l)
        if (mask_ >> l & 1) work(l);
  }
  template <class T, class Make>
  void unary(Make make) const {
    const uint64_t* a = from(0);
    uint64_t* d = to(0);
    lane([&](int l) { d[l] = out(make(in<T>(a[l]))); });
  }
  template <class T, class Make>
  void binary(Make make) const {
    const uint64_t *a = from(0), *b = from(1);
    uint64_t* d = to(0);
    lane([&](int l) { d[l] = out(make(in<T>(a[l]), in<T>(b[l]))); });
  }
  template <class T, class Make>
  void ternary(Make make) const {
    const uint64_t *a = from(0), *b = from(1), *c = from(2);
    uint64_t* d = to(0);
    lane([&](int l) { d[l] = out(make(in<T>(a[l]), in<T>(b[l]), in<T>(c[l]))); });
  }

 private:
  const Instruction& i_;
  uint64_t (*slots_)[kLanes];
  uint32_t mask_;
};

}  // namespace

bool compute(const Instruction& i, uint64_t (*slots)[kLanes], uint32_t mask) {
  const Each each(i, slots, mask);
  switch (i.op) {
    case Op::add:
      with(i.type, [&]<class T>(T) { each.binary<Wrapping<T>>([](auto a, auto b) -> Wrapping<T> { return a + b; }); });
      return true;
    case Op::sub:
      with(i.type, [&]<class T>(T) { each.binary<Wrapping<T>>([](auto a, auto b) -> Wrapping<T> { return a - b; }); });
      return true;
    case Op::mul_lo:
      with(i.type, [&]<class T>(T) {
        each.binary<Wrapping<T>>([](auto a, auto b) -> Wrapping<T> {
          if constexpr (kReal<T>) return a * b;
          return static_cast<Wrapping<T>>(static_cast<uint64_t>(a) * static_cast<uint64_t>(b));
        });
      });
      return true;
    case Op::mul_hi:
      with_integer(i.type, [&]<class T>(T) {
        using Wide = std::conditional_t<std::is_signed_v<T>, __int128, unsigned __int128>;
        each.binary<T>([](T a, T b) { return static_cast<T>(static_cast<Wide>(a) * b >> (sizeof(T) * 8)); });
      });
      return true;
    case Op::mul_wide:
      with_integer(i.type, [&]<class T>(T) {
        const uint64_t bits = ~0ull >> (64 - (sizeof(T) > 4 ? 64 : sizeof(T) * 16));
        each.binary<T>([&](T a, T b) {
          return static_cast<uint64_t>(static_cast<int64_t>(a)) * static_cast<uint64_t>(static_cast<int64_t>(b)) & bits;
        });
      });
      return true;
    case Op::mad_lo:
      with_integer(i.type, [&]<class T>(T) {
        each.ternary<T>([](uint64_t a, uint64_t b, uint64_t c) { return static_cast<T>(a * b + c); });
      });
      return true;
    case Op::fma:
      if (i.type.size == 4)
        each.ternary<float>([](float a, float b, float c) { return std::fma(a, b, c); });
      else
        each.ternary<double>([](double a, double b, double c) { return std::fma(a, b, c); });
      return true;
    case Op::div:
      with(i.type, [&]<class T>(T) { each.binary<T>([](T a, T b) { return divide(a, b); }); });
      return true;
    case Op::min:
      with(i.type, [&]<class T>(T) {
        each.binary<T>([](T a, T b) -> T {
          if constexpr (kReal<T>) return std::fmin(a, b);
          return a < b ? a : b;
        });
      });
      return true;
    case Op::max:
      with(i.type, [&]<class T>(T) {
        each.binary<T>([](T a, T b) -> T {
          if constexpr (kReal<T>) return std::fmax(a, b);
          return a < b ? b : a;
        });
      });
      return true;
    case Op::neg:
      with(i.type, [&]<class T>(T) {
        each.unary<Wrapping<T>>([](auto a) -> Wrapping<T> {
          if constexpr (kReal<T>) return -a;
          return 0 - a;
        });
      });
      return true;
    case Op::abs:
      with(i.type, [&]<class T>(T) {
        each.unary<T>([](T a) -> T {
          if constexpr (kReal<T>) return std::fabs(a);
          return a < 0 ? 0 - a : a;
        });
      });
      return true;
    case Op::sqrt:
      if (i.type.size == 4)
        each.unary<float>([](float a) { return std::sqrt(a); });
      else
        each.unary<double>([](double a) { return std::sqrt(a); });
      return true;
    case Op::ex2:
      each.unary<float>([](float a) { return flushed(std::exp2(flushed(a))); });
      return true;
    case Op::bit_and:
      each.binary<uint64_t>([](uint64_t a, uint64_t b) { return a & b; });
      break;
    case Op::bit_or:
      each.binary<uint64_t>([](uint64_t a, uint64_t b) { return a | b; });
      break;
    case Op::bit_xor:
      each.binary<uint64_t>([](uint64_t a, uint64_t b) { return a ^ b; });
      break;
    case Op::bit_not:
      if (i.type.kind == Kind::predicate)
        each.unary<uint64_t>([](uint64_t a) { return a ^ 1; });
      else
        each.unary<uint64_t>([](uint64_t a) { return ~a; });
      break;
    case Op::shl:
      with_integer({Kind::uint, i.type.size}, [&]<class T>(T) {
        const uint64_t *a = each.from(0), *b = each.from(1);
        uint64_t* d = each.to(0);
        each.lane([&](int l) {
          const uint32_t by = static_cast<uint32_t>(b[l]);
          d[l] = by >= sizeof(T) * 8 ? 0 : out(static_cast<T>(in<T>(a[l]) << by));
        });
      });
      return true;
    case Op::shr:
      with_integer(i.type, [&]<class T>(T) {
        const uint64_t *a = each.from(0), *b = each.from(1);
        uint64_t* d = each.to(0);
        each.lane([&](int l) {
          const uint32_t by = static_cast<uint32_t>(b[l]), most = sizeof(T) * 8 - 1;
          const T x = in<T>(a[l]);
          d[l] = out(static_cast<T>(by > most ? (x < 0 ? -1 : 0) : x >> by));
        });
      });
      return true;
    case Op::popc:
      with_integer({Kind::uint, i.type.size}, [&]<class T>(T) {
        each.unary<T>(
            [](T a) { return static_cast<uint32_t>(std::popcount(static_cast<std::make_unsigned_t<T>>(a))); });
      });
      return true;
    case Op::brev:
      if (i.type.size != 4) throw std::runtime_error("expected brev of 32 bits");
      each.unary<uint32_t>(reversed);
      return true;
    case Op::bfind_shift:
      if (i.type.kind != Kind::uint || i.type.size != 4) throw std::runtime_error("expected bfind of u32");
      each.unary<uint32_t>([](uint32_t a) { return a ? static_cast<uint32_t>(std::countl_zero(a)) : ~0u; });
      return true;
    case Op::bfi:
      with_integer({Kind::uint, i.type.size}, [&]<class T>(T) {
        const uint64_t *a = each.from(0), *b = each.from(1), *c = each.from(2), *d = each.from(3);
        uint64_t* to = each.to(0);
        each.lane([&](int l) { to[l] = inserted<T>(a[l], b[l], c[l], d[l]); });
      });
      return true;
    case Op::mov:
      each.unary<uint64_t>([](uint64_t a) { return a; });
      break;
    case Op::split:
    case Op::join: {
      const bool split = i.op == Op::split;
      const auto& parts = split ? i.to : i.from;
      const int bits = i.type.size * 8 / static_cast<int>(parts.size());
      const uint64_t ones = (1ull << bits) - 1;
      each.lane([&](int l) {
        uint64_t whole = split ? slots[i.from[0]][l] : 0;
        for (size_t p = 0; p < parts.size(); ++p)
          if (split)
            slots[parts[p]][l] = whole >> (bits * p) & ones;
          else
            whole |= (slots[parts[p]][l] & ones) << (bits * p);
        if (!split) slots[i.to[0]][l] = whole;
      });
      return true;
    }
    case Op::cvt:
      with(i.from_type, [&]<class From>(From) {
        with(i.type, [&]<class To>(To) {
          each.unary<From>([&](From a) -> uint64_t {
            const To made = convert<To, From>(a, i.rounding);
            // A narrow integer is extended to the register it is in.
            if constexpr (std::is_signed_v<To> && !kReal<To> && sizeof(To) < 4) return out(static_cast<int32_t>(made));
            return out(made);
          });
        });
      });
      return true;
    case Op::setp:
      with(i.type, [&]<class T>(T) { each.binary<T>([&](T a, T b) -> uint64_t { return holds(i.test, a, b); }); });
      return true;
    case Op::selp: {
      const uint64_t *a = each.from(0), *b = each.from(1), *p = each.from(2);
      uint64_t* d = each.to(0);
      each.lane([&](int l) { d[l] = p[l] & 1 ? a[l] : b[l]; });
      break;
    }
    default:
      return false;
  }
  // What was made of whole slots is cut to the size of the register.
  if (i.type.size > 0 && i.type.size < 8 && i.type.kind != Kind::predicate) {
    const uint64_t ones = (1ull << (i.type.size * 8)) - 1;
    uint64_t* d = each.to(0);
    each.lane([&](int l) { d[l] &= ones; });
  }
  return true;
}

}  // namespace repsim::ptx
