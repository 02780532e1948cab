// diffusion/served/protocol.cpp -- the bytes between a served denoiser and those who use it
#include "diffusion/served/protocol.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <map>
#include <sstream>
#include <type_traits>

#include "tensor/error.h"
#include "tensor/io/atomic_file.h"

namespace avid::diffusion {
namespace {

static_assert(std::endian::native == std::endian::little, "the protocol's numbers are little-endian");
constexpr char kMagic[] = {'A', 'V', 'D', 'N'};
constexpr std::uint32_t kRequest = 1, kResponse = 2, kHasActions = 1;
constexpr std::int64_t kMaxExtent = 1 << 16;

std::uint64_t fnv1a(std::string_view bytes) {
  std::uint64_t hash = 0xcbf29ce484222325ull;
  for (const char c : bytes) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3ull;
  return hash;
}

template <class Number>
void put(std::string& out, Number value) {
  static_assert(std::is_trivially_copyable_v<Number>);
  out.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

// Rows may lie further apart in memory than their columns need.
template <class Elem>
void put_values(std::string& out, const Tensor& t) {
  const std::int64_t rows = t.rows(), cols = t.numel() / std::max<std::int64_t>(rows, 1);
  const Elem* p = t.data<Elem>();
  for (std::int64_t r = 0; r < rows; ++r)
    out.append(reinterpret_cast<const char*>(p + r * t.pitch()), static_cast<std::size_t>(cols) * sizeof(Elem));
}

void put_head(std::string& out, std::uint32_t kind, std::uint32_t flags, std::uint64_t model) {
  out.append(kMagic, sizeof(kMagic));
  put(out, kProtocolVersion);
  put(out, kind);
  put(out, flags);
  put(out, model);
}

/// Takes numbers and tensors off the front; every step checks what is left.
class Reader {
 public:
  Reader(std::string_view bytes, std::string where) : where_(std::move(where)) {
    check<Error>(
        bytes.size() >= 32 && std::memcmp(bytes.data(), kMagic, sizeof(kMagic)) == 0,
        "{}: expected a message of this protocol, got {} other bytes", where_, bytes.size());
    std::uint64_t stored;
    std::memcpy(&stored, bytes.data() + bytes.size() - sizeof(stored), sizeof(stored));
    rest_ = bytes.substr(0, bytes.size() - sizeof(stored));
    check<Error>(fnv1a(rest_) == stored, "{}: the checksum does not fit: damaged on the way", where_);
    rest_.remove_prefix(sizeof(kMagic));
  }
  template <class Number>
  Number take() {
    Number value;
    need(sizeof(value));
    std::memcpy(&value, rest_.data(), sizeof(value));
    rest_.remove_prefix(sizeof(value));
    return value;
  }
  std::int64_t take_extent(const char* name, std::int64_t least, std::int64_t most = kMaxExtent) {
    const auto n = take<std::int64_t>();
    check<Error>(n >= least && n <= most, "{}: {}: expected {} to {}, got {}", where_, name, least, most, n);
    return n;
  }
  template <class Elem>
  Tensor take_tensor(const Shape& shape, DType dtype) {
    // No product of extents above can overflow: five of 2^16 at most, and what is there bounds the allocation.
    double count = 1;
    for (const std::int64_t extent : shape) count *= static_cast<double>(extent);
    check<Error>(
        count * sizeof(Elem) <= static_cast<double>(rest_.size()), "{}: expected {} numbers of {}, got {} bytes",
        where_, count, shape, rest_.size());
    Tensor t = Tensor::empty(shape, dtype);
    const std::int64_t rows = t.rows(), cols = t.numel() / std::max<std::int64_t>(rows, 1);
    for (std::int64_t r = 0; r < rows; ++r) {
      const auto bytes = static_cast<std::size_t>(cols) * sizeof(Elem);
      std::memcpy(t.data<Elem>() + r * t.pitch(), rest_.data(), bytes);
      rest_.remove_prefix(bytes);
    }
    return t;
  }
  /// Version, kind; returns the flags.
  std::uint32_t head(std::uint32_t kind) {
    const auto version = take<std::uint32_t>();
    check<Error>(
        version == kProtocolVersion, "{}: expected protocol version {}, got {} | use the same program on both sides",
        where_, kProtocolVersion, version);
    const auto got = take<std::uint32_t>();
    check<Error>(got == kind, "{}: expected message {}, got {}", where_, kind, got);
    return take<std::uint32_t>();
  }
  void end() const { check<Error>(rest_.empty(), "{}: {} bytes too many", where_, rest_.size()); }

 private:
  void need(std::size_t bytes) const {
    check<Error>(rest_.size() >= bytes, "{}: ends {} bytes early", where_, bytes - rest_.size());
  }
  std::string_view rest_;
  std::string where_;
};

}  // namespace

std::uint64_t ModelCard::id() const {
  std::uint64_t value = 0;
  for (std::size_t i = 0; i < 16 && i < sha256.size(); ++i) {
    const char c = sha256[i];
    value = value << 4 | static_cast<std::uint64_t>(c <= '9' ? c - '0' : c - 'a' + 10);
  }
  return value;
}

std::string ModelCard::to_text() const {
  std::string safe = name;
  for (char& c : safe)
    if (static_cast<unsigned char>(c) < 0x20) c = ' ';
  return fmt::format(
      "protocol {}\nname {}\nsha256 {}\nobjective {}\nschedule {}\ntimesteps {}\ncond_frames {}\nmultiple {}\n"
      "parameters {}\nflops_per_pixel {}\nframes {}\nsize {}\n",
      kProtocolVersion, safe, sha256, name_of(objective), name_of(schedule), timesteps, cond_frames, multiple,
      parameters, flops_per_pixel, frames, size);
}

ModelCard ModelCard::from_text(const std::string& text, const std::string& where) {
  std::map<std::string, std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);)
    if (const auto space = line.find(' '); space != std::string::npos)
      lines[line.substr(0, space)] = line.substr(space + 1);
  const auto get = [&](const char* key) {
    const auto found = lines.find(key);
    check<Error>(found != lines.end(), "{}: no '{}' in its description | is it avid serve-denoiser?", where, key);
    return found->second;
  };
  const auto number = [&](const char* key, std::int64_t least, std::int64_t most) {
    const std::string digits = get(key);
    char* end = nullptr;
    const long long value = std::strtoll(digits.c_str(), &end, 10);
    check<Error>(
        end != digits.c_str() && *end == 0 && value >= least && value <= most, "{}: {}: expected {} to {}, got '{}'",
        where, key, least, most, printable(digits));
    return static_cast<std::int64_t>(value);
  };
  const std::int64_t version = number("protocol", 0, 1 << 30);
  check<Error>(
      version == kProtocolVersion, "{}: expected protocol version {}, got {} | use the same program on both sides",
      where, kProtocolVersion, version);
  ModelCard card;
  card.name = get("name");
  card.sha256 = get("sha256");
  check<Error>(
      card.sha256.size() == 64 && card.sha256.find_first_not_of("0123456789abcdef") == std::string::npos,
      "{}: sha256: expected 64 hex digits, got '{}'", where, printable(card.sha256));
  try {
    card.objective = parse_objective(get("objective"));
    card.schedule = parse_schedule(get("schedule"));
  } catch (const ConfigError& error) {
    fail<Error>("{}: {}", where, error.what());
  }
  card.timesteps = number("timesteps", 1, 1000000);
  card.cond_frames = number("cond_frames", 0, 1024);
  card.multiple = number("multiple", 1, 4096);
  card.parameters = number("parameters", 0, std::int64_t{1} << 50);
  card.flops_per_pixel = std::strtod(get("flops_per_pixel").c_str(), nullptr);
  if (!(card.flops_per_pixel >= 0) || !std::isfinite(card.flops_per_pixel)) card.flops_per_pixel = 0;
  card.frames = number("frames", 0, kMaxExtent);
  card.size = number("size", 0, kMaxExtent);
  return card;
}

std::string encode_request(const DenoiserInput& in, std::uint64_t model) {
  check_rank(in.x_t, 5, "served denoiser", "x_t");
  check_rank(in.cond, 5, "served denoiser", "cond");
  check_dtype(in.x_t, DType::f32, "served denoiser", "x_t");
  check_dtype(in.cond, DType::f32, "served denoiser", "cond");
  const std::int64_t B = in.x_t.dim(0), T = in.x_t.dim(1), H = in.x_t.dim(2), W = in.x_t.dim(3), K = in.cond.dim(1);
  check_shape(in.x_t, {B, T, H, W, 3}, "served denoiser", "x_t");
  check_shape(in.cond, {B, K, H, W, 3}, "served denoiser", "cond");
  check_shape(in.t, {B}, "served denoiser", "t");
  std::string out;
  out.reserve(static_cast<std::size_t>(4 * (in.x_t.numel() + in.cond.numel()) + 16 * B * (T + 1) + 128));
  put_head(out, kRequest, in.actions.defined() ? kHasActions : 0, model);
  for (const std::int64_t extent : {B, T, K, H, W}) put(out, extent);
  put_values<std::int64_t>(out, in.t);
  if (in.actions.defined()) {
    check_shape(in.actions, {B, T}, "served denoiser", "actions");
    put_values<std::int64_t>(out, in.actions);
  }
  put_values<float>(out, in.x_t);
  put_values<float>(out, in.cond);
  put(out, fnv1a(out));
  return out;
}

DecodedRequest decode_request(std::string_view bytes, std::int64_t max_clips) {
  Reader reader(bytes, "request");
  const std::uint32_t flags = reader.head(kRequest);
  DecodedRequest request;
  request.model = reader.take<std::uint64_t>();
  const std::int64_t B = reader.take_extent("clips", 1, max_clips), T = reader.take_extent("frames", 1),
                     K = reader.take_extent("conditioning frames", 0), H = reader.take_extent("height", 1),
                     W = reader.take_extent("width", 1);
  request.input.t = reader.take_tensor<std::int64_t>({B}, DType::i64);
  if ((flags & kHasActions) != 0) request.input.actions = reader.take_tensor<std::int64_t>({B, T}, DType::i64);
  request.input.x_t = reader.take_tensor<float>({B, T, H, W, 3}, DType::f32);
  request.input.cond = reader.take_tensor<float>({B, K, H, W, 3}, DType::f32);
  reader.end();
  return request;
}

std::string encode_response(const Tensor& prediction, std::uint64_t model) {
  check_rank(prediction, 5, "served denoiser", "prediction");
  check_dtype(prediction, DType::f32, "served denoiser", "prediction");
  std::string out;
  out.reserve(static_cast<std::size_t>(4 * prediction.numel() + 128));
  put_head(out, kResponse, 0, model);
  for (const int d : {0, 1, 2, 3}) put(out, prediction.dim(d));
  put_values<float>(out, prediction);
  put(out, fnv1a(out));
  return out;
}

Tensor decode_response(std::string_view bytes, std::uint64_t model, const Shape& expected, const std::string& where) {
  Reader reader(bytes, where + ": answer");
  reader.head(kResponse);
  const auto got_model = reader.take<std::uint64_t>();
  check<Error>(
      got_model == model,
      "{}: its weights changed: asked model {:016x}, answered by {:016x} | serve the weights this run began with",
      where, model, got_model);
  const std::int64_t B = reader.take_extent("clips", 0), T = reader.take_extent("frames", 0),
                     H = reader.take_extent("height", 0), W = reader.take_extent("width", 0);
  // Compared one by one: together, extents may pass what a Shape can hold.
  check<Error>(
      B == expected[0] && T == expected[1] && H == expected[2] && W == expected[3],
      "{}: expected a prediction of {}, got [{},{},{},{},3] | the server is faulty", where, expected, B, T, H, W);
  Tensor prediction = reader.take_tensor<float>(expected, DType::f32);
  reader.end();
  const float* p = prediction.data<float>();
  for (std::int64_t i = 0; i < prediction.rows() * prediction.pitch(); ++i)
    check<Error>(std::isfinite(p[i]), "{}: its prediction is not finite | the server is faulty", where);
  return prediction;
}

}  // namespace avid::diffusion
