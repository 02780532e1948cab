// diffusion/served/client.cpp -- a Denoiser in another process, reached over HTTP
#include "diffusion/served/client.h"

#include <httplib.h>

#include <charconv>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "tensor/error.h"
#include "tensor/io/atomic_file.h"

namespace avid::diffusion {
namespace {

constexpr double kMostSeconds = 1e6;  // more than any wait, and whole microseconds of it fit

double seconds_from(const char* name, double least, double otherwise) {
  const char* text = std::getenv(name);
  if (text == nullptr || *text == 0) return otherwise;
  char* end = nullptr;
  const double value = std::strtod(text, &end);
  check<UsageError>(
      *end == 0 && value >= least && value <= kMostSeconds, "{}: expected seconds, {:g} to {:g}, got '{}'", name, least,
      kMostSeconds, printable(text));
  return value;
}

}  // namespace

ServedOptions ServedOptions::from_environment() {
  ServedOptions options;
  if (const char* token = std::getenv("AVID_BASE_TOKEN")) options.token = token;
  options.timeout_s = seconds_from("AVID_BASE_TIMEOUT", 1e-3, options.timeout_s);
  options.patience_s = seconds_from("AVID_BASE_PATIENCE", 0, options.patience_s);
  options.say = [](const std::string& line) { std::fprintf(stderr, "%s\n", line.c_str()); };
  return options;
}

bool is_served(const std::string& place) { return place.starts_with("http://"); }

std::string httplib_version() { return CPPHTTPLIB_VERSION; }

namespace {

/// httplib takes any number for a port, and asks it in vain.
bool has_port_or_none(const std::string& url) {
  const std::size_t colon = url.find_last_of(":]");
  if (url[colon] != ':' || url.substr(colon).starts_with("://")) return true;
  const char *first = url.data() + colon + 1, *last = url.data() + url.size();
  int port = 0;
  const auto [end, error] = std::from_chars(first, last, port);
  return error == std::errc{} && end == last && port > 0 && port < 65536;
}

}  // namespace

struct ServedDenoiser::Connection {
  explicit Connection(const std::string& url) : client(url) {}
  httplib::Client client;

  /// Sends until an answer comes or patience ends. `send` returns httplib's result.
  template <class Send>
  std::string ask(const std::string& url, const ServedOptions& options, Send&& send) {
    using Clock = std::chrono::steady_clock;
    const auto start = Clock::now();
    std::chrono::milliseconds pause(50);
    bool said_so = false;
    const auto waited_s = [&] { return std::chrono::duration<double>(Clock::now() - start).count(); };
    for (std::string why;;) {
      const httplib::Result result = send();
      if (result) {
        if (result->status == 200) {
          if (said_so) options.say(fmt::format("{}: it answers again after {:.0f} s", url, waited_s()));
          return std::move(result->body);
        }
        const std::string said = printable(result->body.substr(0, result->body.find('\n')));
        check<Error>(
            result->status != 401 && result->status != 403,
            "{}: it wants another token | set AVID_BASE_TOKEN to the one its owner gave", url);
        // 5xx but for 500 is a server (or a proxy before it) that is starting, stopping or busy.
        check<Error>(
            result->status > 500, "{}: it refused: {} {}{}", url, result->status,
            said.empty() ? "without a reason" : said,
            said.empty() || result->status == 404 ? " | is it avid serve-denoiser?" : "");
        why = fmt::format("it is busy ({})", result->status);
      } else if (result.error() == httplib::Error::Read || result.error() == httplib::Error::Write) {
        why = fmt::format("no whole answer within {:g} s", options.timeout_s);
      } else {
        why = "nobody answers there";
      }
      const double waited = waited_s();
      check<Error>(
          waited + std::chrono::duration<double>(pause).count() <= options.patience_s,
          "{}: {}, asked again for {:.0f} s | start it with avid serve-denoiser, or raise AVID_BASE_TIMEOUT / "
          "AVID_BASE_PATIENCE (seconds)",
          url, why, waited);
      if (options.say && !said_so && waited >= options.quiet_s) {
        options.say(fmt::format("{}: {}, asked again for up to {:g} s", url, why, options.patience_s));
        said_so = true;
      }
      std::this_thread::sleep_for(pause);
      pause = std::min(pause * 2, std::chrono::milliseconds(2000));
    }
  }
};

ServedDenoiser::ServedDenoiser(const std::string& url, const ServedOptions& options) : url_(url), options_(options) {
  while (is_served(url_) && url_.ends_with('/')) url_.pop_back();
  check<UsageError>(
      is_served(url_) && has_port_or_none(url_), "{}: expected http://host:port, the port from 1 to 65535",
      printable(url));
  connection_ = std::make_unique<Connection>(url_);
  httplib::Client& client = connection_->client;
  check<UsageError>(client.is_valid(), "{}: expected http://host:port", printable(url_));
  const auto micros = [](double s) { return std::chrono::microseconds(static_cast<std::int64_t>(s * 1e6)); };
  client.set_connection_timeout(micros(std::min(options_.timeout_s, 10.0)));
  client.set_read_timeout(micros(options_.timeout_s));
  client.set_write_timeout(micros(options_.timeout_s));
  client.set_keep_alive(true);
  client.set_tcp_nodelay(true);
  if (!options_.token.empty()) client.set_default_headers({{"Authorization", "Bearer " + options_.token}});
  card_ = ModelCard::from_text(connection_->ask(url_, options_, [&] { return client.Get("/v1/info"); }), url_);
}

ServedDenoiser::~ServedDenoiser() = default;

Tensor ServedDenoiser::predict(const DenoiserInput& input) {
  const auto on_host = [](const Tensor& t) { return t.device().is_gpu() ? t.to(Device{}) : t; };
  const Device device = input.x_t.device();
  // Actions stay here: a base is asked without them.
  const std::string body = encode_request(
      {.x_t = on_host(input.x_t), .t = on_host(input.t), .cond = on_host(input.cond), .actions = {}}, card_.id());
  const std::string answer = connection_->ask(
      url_, options_, [&] { return connection_->client.Post("/v1/predict", body, "application/octet-stream"); });
  const Tensor prediction = decode_response(answer, card_.id(), input.x_t.shape(), url_);
  return device.is_gpu() ? prediction.to(device) : prediction;
}

}  // namespace avid::diffusion
