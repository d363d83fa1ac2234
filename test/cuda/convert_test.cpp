#include <cmath>
#include <limits>

#include "harness.h"

namespace rankone::test {
namespace {

// Powers of two from below the least subnormal to beyond the largest number, ties and their neighbours, and what has no
// neighbours.
Values specialValues() {
  Values values = {0.0, -0.0, INFINITY, -INFINITY, std::numeric_limits<double>::quiet_NaN(), 65504, 65519, 65520, 1e38};
  for (int e = -150; e < 128; e += 3)
    for (double fraction : {1.0, 1 + 0x1p-8, 1 + 0x1p-8 + 0x1p-20, 1 + 0x3p-8, 1 + 0x1p-11, 1 + 0x3p-11, 1.75})
      for (double sign : {1.0, -1.0}) values.push_back(sign * std::ldexp(fraction, e));
  return values;
}

bool sameValue(double a, double b) {
  return std::isnan(a) ? std::isnan(b) : a == b && std::signbit(a) == std::signbit(b);
}

TEST("convert: every pair of dtypes, as the tests' own rounding") {
  Device device;
  Random random(1);
  for (int64_t count : {int64_t{1}, int64_t{7}, int64_t{1029}, int64_t{0}}) {
    Values values = specialValues();
    values.resize(std::max<int64_t>(count, count ? static_cast<int64_t>(values.size()) : 0));
    for (double& x : values)
      if (x == 0 && !std::signbit(x)) x = random.normal();
    for (DType fromDType : {DType::F32, DType::BF16, DType::F16})
      for (DType toDType : {DType::F32, DType::BF16, DType::F16}) {
        const Array from({static_cast<int64_t>(values.size())}, values, fromDType), expected = from.to(toDType);
        const DeviceArray a(device, from), b(device, from.shape(), toDType);
        RankoneError error;
        const int code = backend().convert(device.stream(), b.data(), backendDType(toDType), a.data(),
                                           backendDType(fromDType), from.size(), &error);
        check(code == 0, "%s", error.reason);
        const Array result = b.host();
        for (int64_t i = 0; i < from.size(); ++i)
          check(sameValue(result.at(i), expected.at(i)), "%s to %s: %.9g became %.9g, not %.9g", dtypeName(fromDType),
                dtypeName(toDType), from.at(i), result.at(i), expected.at(i));
      }
  }
}

}  // namespace
}  // namespace rankone::test
