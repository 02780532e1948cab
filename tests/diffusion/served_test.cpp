// tests/diffusion/served_test.cpp -- a denoiser in another process: same numbers, restarts, and servers that lie
#include "diffusion/served/client.h"
#include "diffusion/served/server.h"

#include <httplib.h>

#include <cmath>
#include <thread>

#include "tensor/error.h"
#include "tests/doctest.h"
#include "tests/support.h"

namespace avid::diffusion {
namespace {

const Shape kVideo{2, 3, 4, 4, 3};

/// x_t times the clip's time, plus the mean of cond: depends on everything, clip by clip. Counts its largest batch.
class Known final : public Denoiser {
 public:
  Tensor predict(const DenoiserInput& in) override {
    if (fails) fail<Error>("known: out of order");
    largest = std::max(largest, in.x_t.dim(0));
    Tensor out = in.x_t.clone();
    const std::vector<double> cond = in.cond.to_doubles();
    const std::size_t per_cond = cond.size() / static_cast<std::size_t>(in.x_t.dim(0));
    for (std::int64_t b = 0; b < out.dim(0); ++b) {
      double sum = 0;
      for (std::size_t i = 0; i < per_cond; ++i) sum += cond[static_cast<std::size_t>(b) * per_cond + i];
      Tensor clip = out.select(b);
      float* p = clip.data<float>();
      const auto t = static_cast<float>(in.t.to_values<std::int64_t>()[static_cast<std::size_t>(b)]);
      for (std::int64_t r = 0; r < clip.rows(); ++r)
        for (std::int64_t c = 0; c < 3; ++c)
          p[r * clip.pitch() + c] = p[r * clip.pitch() + c] * t + static_cast<float>(sum);
    }
    if (late_ms > 0) std::this_thread::sleep_for(std::chrono::milliseconds(late_ms));
    return out;
  }
  Objective objective() const override { return Objective::pred_x0; }
  bool fails = false;
  int late_ms = 0;
  std::int64_t largest = 0;
};

ModelCard card(char digit = 'a') {
  ModelCard c;
  c.name = "known";
  c.sha256 = std::string(64, digit);
  return c;
}

DenoiserInput input(std::uint64_t seed, std::int64_t b = 2) {
  return {
      test::random_tensor({b, 3, 4, 4, 3}, DType::f32, seed),
      Tensor::full({b}, static_cast<double>(seed), DType::i64),
      test::random_tensor({b, 2, 4, 4, 3}, DType::f32, seed + 1),
      {}};
}

ServedOptions impatient() { return {.token = "", .timeout_s = 5, .patience_s = 0.3}; }

std::string message(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& error) {
    const std::string what = error.what();
    CHECK(what.find('\n') == std::string::npos);
    return what;
  }
  return "";
}
bool has(const std::string& text, const char* part) {
  INFO(text);
  return text.find(part) != std::string::npos;
}

/// A server that answers a request with whatever `answer` makes of the right response.
struct Liar {
  explicit Liar(std::function<void(const DenoiserInput&, httplib::Response&)> lie) {
    http.Get("/v1/info", [](const httplib::Request&, httplib::Response& r) {
      r.set_content(card().to_text(), "text/plain");
    });
    http.Post("/v1/predict", [lie](const httplib::Request& request, httplib::Response& r) {
      lie(decode_request(request.body, 99).input, r);
    });
    port = http.bind_to_any_port("127.0.0.1");
    thread = std::thread([this] { http.listen_after_bind(); });
    while (!http.is_running()) std::this_thread::yield();
  }
  ~Liar() {
    http.stop();
    thread.join();
  }
  std::string url() const { return fmt::format("http://127.0.0.1:{}", port); }
  httplib::Server http;
  int port = 0;
  std::thread thread;
};

}  // namespace

TEST_CASE("served/predict/same_bits_as_in_process") {
  Known network;
  DenoiserServer server(network, card(), {});
  server.start();
  ServedDenoiser served(server.url(), impatient());
  CHECK(served.card().name == "known");
  CHECK(served.card().id() == 0xaaaaaaaaaaaaaaaaull);
  CHECK(served.objective() == Objective::pred_x0);
  for (const std::uint64_t seed : {1, 7, 100}) {
    const DenoiserInput in = input(seed);
    CHECK(test::same_bits(served.predict(in), network.predict(in)));
  }
  CHECK(server.counts().requests == 3);
  CHECK(server.counts().clips == 6);
}

TEST_CASE("served/batching/those_who_wait_together_are_evaluated_together") {
  Known network;
  network.late_ms = 30;
  DenoiserServer server(network, card(), {.max_clips = 4});
  server.start();
  std::vector<std::thread> clients;
  std::vector<int> right(6, 0);
  for (std::size_t i = 0; i < right.size(); ++i)
    clients.emplace_back([&, i] {
      ServedDenoiser served(server.url(), {.timeout_s = 10, .patience_s = 10});
      const DenoiserInput in = input(i + 1, 1);
      Known alone;
      right[i] = test::same_bits(served.predict(in), alone.predict(in));
    });
  for (std::thread& client : clients) client.join();
  for (const int r : right) CHECK(r == 1);
  CHECK(server.counts().requests == 6);
  CHECK(server.counts().evaluations < 6);
  CHECK(network.largest > 1);
  CHECK(network.largest <= 4);
}

TEST_CASE("served/restart/the_client_waits_and_goes_on") {
  Known network;
  const DenoiserInput in = input(3);
  auto server = std::make_unique<DenoiserServer>(network, card(), ServerOptions{});
  server->start();
  const int port = server->port();
  std::vector<std::string> lines;
  const ServedOptions options{.timeout_s = 10, .patience_s = 20, .quiet_s = 0.05, .say = [&](const std::string& line) {
                                lines.push_back(line);
                              }};
  ServedDenoiser served(server->url(), options);
  const Tensor before = served.predict(in);
  CHECK(lines.empty());
  server.reset();
  std::thread later([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    server = std::make_unique<DenoiserServer>(network, card(), ServerOptions{.port = port});
    server->start();
  });
  CHECK(test::same_bits(served.predict(in), before));
  later.join();
  REQUIRE(lines.size() == 2);  // nobody waits without a word
  CHECK(has(lines[0], "nobody answers there, asked again for up to 20 s"));
  CHECK(has(lines[1], "it answers again after"));

  server.reset();  // and now with other weights under the same address
  server = std::make_unique<DenoiserServer>(network, card('b'), ServerOptions{.port = port});
  server->start();
  CHECK(
      has(message([&] { served.predict(in); }), "asked for model aaaaaaaaaaaaaaaa, this server has bbbbbbbbbbbbbbbb"));
}

TEST_CASE("served/token/wanted_and_given") {
  CHECK(
      has(message([] {
            Known network;
            DenoiserServer server(network, card(), {.host = "0.0.0.0"});
          }),
          "set a token"));
  Known network;
  DenoiserServer server(network, card(), {.token = "secret"});
  server.start();
  CHECK(has(message([&] { ServedDenoiser served(server.url(), impatient()); }), "AVID_BASE_TOKEN"));
  CHECK(has(
      message([&] { ServedDenoiser served(server.url(), {.token = "secrex", .patience_s = 0}); }), "AVID_BASE_TOKEN"));
  ServedDenoiser served(server.url(), {.token = "secret", .patience_s = 1});
  CHECK(served.predict(input(1)).shape() == kVideo);
}

TEST_CASE("served/errors/dead_late_and_broken_servers") {
  CHECK(has(message([] { ServedDenoiser served("http://127.0.0.1:1", {.patience_s = 0.1}); }), "nobody answers"));
  for (const char* url :
       {"http://", "http://127.0.0.1:", "http://127.0.0.1:0", "http://127.0.0.1:65536", "http://127.0.0.1:99999999999",
        "http://127.0.0.1:-1", "http://[::1]:x", "http://a:80/path"})
    CHECK(has(message([&] { ServedDenoiser served(url, {}); }), "expected http://host:port"));
  Known network;
  DenoiserServer server(network, card(), {});
  server.start();
  {
    ServedDenoiser served(server.url(), {.timeout_s = 0.3, .patience_s = 1.5});
    network.late_ms = 700;
    CHECK(has(message([&] { served.predict(input(1)); }), "no whole answer within 0.3 s"));
    network.late_ms = 0;
  }
  ServedDenoiser served(server.url(), impatient());
  network.fails = true;
  CHECK(has(message([&] { served.predict(input(1)); }), "known: out of order"));
  network.fails = false;
  CHECK(has(message([&] { served.predict(input(250)); }), "t: expected 0 to 199, got 250"));
  CHECK(served.predict(input(2)).shape() == kVideo);  // a refused request costs the server nothing
}

TEST_CASE("served/errors/lying_servers") {
  const auto told = [](std::function<void(const DenoiserInput&, httplib::Response&)> lie) {
    Liar liar(std::move(lie));
    ServedDenoiser served(liar.url(), impatient());
    return message([&] { served.predict(input(1)); });
  };
  const auto send = [](httplib::Response& r, const std::string& bytes) {
    r.set_content(bytes, "application/octet-stream");
  };
  CHECK(told([&](const DenoiserInput& in, httplib::Response& r) {
          send(r, encode_response(in.x_t, card().id()));
        }) == "");
  CHECK(
      has(told([&](const DenoiserInput&, httplib::Response& r) {
            send(r, encode_response(Tensor::zeros({2, 3, 4, 5, 3}), card().id()));
          }),
          "expected a prediction of [2,3,4,4,3], got [2,3,4,5,3]"));
  CHECK(
      has(told([&](const DenoiserInput& in, httplib::Response& r) {
            Tensor bad = in.x_t.clone();
            bad.data<float>()[5] = std::nanf("");
            send(r, encode_response(bad, card().id()));
          }),
          "not finite"));
  CHECK(
      has(told([&](const DenoiserInput& in, httplib::Response& r) { send(r, encode_response(in.x_t, 5)); }),
          "its weights changed"));
  CHECK(
      has(told([&](const DenoiserInput& in, httplib::Response& r) {
            std::string bytes = encode_response(in.x_t, card().id());
            bytes[100] = static_cast<char>(bytes[100] ^ 1);
            send(r, bytes);
          }),
          "checksum"));
  CHECK(
      has(told([&](const DenoiserInput&, httplib::Response& r) { send(r, "hello"); }),
          "expected a message of this protocol"));
  CHECK(
      has(told([&](const DenoiserInput&, httplib::Response& r) {
            // More numbers than there are: extents of 2^16 each, and a checksum that fits.
            std::string bytes = encode_response(Tensor::zeros({1, 1, 1, 1, 3}), card().id());
            for (std::size_t i = 0; i < 4; ++i) bytes.replace(24 + 8 * i, 8, std::string("\0\0\1\0\0\0\0\0", 8));
            std::uint64_t hash = 0xcbf29ce484222325ull;
            for (const char byte : bytes.substr(0, bytes.size() - 8))
              hash = (hash ^ static_cast<unsigned char>(byte)) * 0x100000001b3ull;
            for (std::size_t i = 0; i < 8; ++i) bytes[bytes.size() - 8 + i] = static_cast<char>(hash >> (8 * i) & 0xff);
            send(r, bytes);
          }),
          "expected a prediction of [2,3,4,4,3], got [65536,65536,65536,65536,3] | the server is faulty"));
  CHECK(
      has(told([&](const DenoiserInput&, httplib::Response& r) { r.status = 404; }),
          "404 without a reason | is it avid serve-denoiser?"));
  CHECK(has(told([&](const DenoiserInput&, httplib::Response& r) { r.status = 503; }), "busy (503)"));
}

TEST_CASE("served/protocol/every_cut_and_flip_is_refused") {
  const std::string whole = encode_request(input(4), 9);
  CHECK(decode_request(whole, 2).model == 9);
  CHECK(test::same_bits(decode_request(whole, 2).input.cond, input(4).cond));
  CHECK_THROWS_AS(decode_request(whole, 1), Error);
  for (std::size_t n = 0; n < whole.size(); n += 37) CHECK_THROWS_AS(decode_request(whole.substr(0, n), 2), Error);
  for (std::size_t n = 0; n < whole.size(); n += 53) {
    std::string flipped = whole;
    flipped[n] = static_cast<char>(flipped[n] ^ 4);
    CHECK_THROWS_AS(decode_request(flipped, 2), Error);
  }
  ModelCard c = card();
  c.timesteps = 50;
  c.size = 32;
  const ModelCard again = ModelCard::from_text(c.to_text(), "x");
  CHECK(again.to_text() == c.to_text());
  CHECK(has(message([] { ModelCard::from_text("name x\n", "there"); }), "there: no 'protocol'"));
}

}  // namespace avid::diffusion
