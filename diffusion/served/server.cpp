// diffusion/served/server.cpp -- offers a Denoiser to other processes over HTTP
#include "diffusion/served/server.h"

#include <httplib.h>

#include <condition_variable>
#include <deque>
#include <future>
#include <mutex>
#include <thread>
#include <vector>

#include "kernels/threads.h"
#include "tensor/error.h"

namespace avid::diffusion {
namespace {

/// Compares in a time that does not tell where the first difference is.
bool same_secret(const std::string& a, const std::string& b) {
  unsigned difference = a.size() == b.size() ? 0 : 1;
  for (std::size_t i = 0; i < a.size(); ++i)
    difference |= static_cast<unsigned char>(a[i]) ^ static_cast<unsigned char>(b.empty() ? '\0' : b[i % b.size()]);
  return difference == 0;
}

struct Job {
  DenoiserInput input;
  std::promise<Tensor> done;
};

bool go_together(const DenoiserInput& a, const DenoiserInput& b) {
  if (a.actions.defined() != b.actions.defined()) return false;
  for (const int d : {1, 2, 3})
    if (a.x_t.dim(d) != b.x_t.dim(d)) return false;
  return a.cond.dim(1) == b.cond.dim(1);
}

/// Tensors below each other along the first dimension.
Tensor concatenate(const std::vector<const Tensor*>& parts) {
  if (!parts[0]->defined()) return {};
  std::vector<std::int64_t> extents = parts[0]->shape().to_vector();
  extents[0] = 0;
  for (const Tensor* part : parts) extents[0] += part->dim(0);
  Tensor all = Tensor::empty(Shape(std::span<const std::int64_t>(extents)), parts[0]->dtype());
  std::int64_t at = 0;
  for (const Tensor* part : parts) {
    Tensor place = all.slice(at, at + part->dim(0));
    place.copy_from(*part);
    at += part->dim(0);
  }
  return all;
}

}  // namespace

bool is_loopback(const std::string& host) { return host == "localhost" || host == "::1" || host.starts_with("127."); }

struct DenoiserServer::Impl {
  Impl(Denoiser& network, ModelCard model, const ServerOptions& given)
      : denoiser(network), card(std::move(model)), options(given) {}

  Denoiser& denoiser;
  ModelCard card;
  ServerOptions options;
  httplib::Server http;
  int port = 0;
  std::thread listener, evaluator;
  std::mutex mutex;
  std::condition_variable waiting;
  std::deque<std::shared_ptr<Job>> queue;
  bool ending = false;
  Counts counts;

  void refuse(httplib::Response& response, int status, const std::string& why) {
    response.status = status;
    response.set_content(why + "\n", "text/plain");
    const std::lock_guard lock(mutex);
    ++counts.refused;
  }

  bool allowed(const httplib::Request& request, httplib::Response& response) {
    if (options.token.empty() || same_secret(request.get_header_value("Authorization"), "Bearer " + options.token))
      return true;
    refuse(response, 401, "token: missing or wrong");
    return false;
  }

  void predict(const httplib::Request& request, httplib::Response& response) {
    auto job = std::make_shared<Job>();
    try {
      DecodedRequest decoded = decode_request(request.body, options.max_clips);
      if (decoded.model != 0 && decoded.model != card.id())
        return refuse(
            response, 409, fmt::format("asked for model {:016x}, this server has {:016x}", decoded.model, card.id()));
      const DenoiserInput& in = decoded.input;
      check<Error>(
          in.cond.dim(1) == card.cond_frames && in.x_t.dim(2) % card.multiple == 0 &&
              in.x_t.dim(3) % card.multiple == 0,
          "expected {} conditioning frames with sides that are multiples of {}, got {} of {}x{}", card.cond_frames,
          card.multiple, in.cond.dim(1), in.x_t.dim(2), in.x_t.dim(3));
      for (std::int64_t b = 0; b < in.t.dim(0); ++b) {
        const std::int64_t t = in.t.data<std::int64_t>()[b];
        check<Error>(t >= 0 && t < card.timesteps, "t: expected 0 to {}, got {}", card.timesteps - 1, t);
      }
      job->input = in;
    } catch (const std::exception& error) {
      return refuse(response, 400, error.what());
    }
    std::future<Tensor> done = job->done.get_future();
    {
      const std::lock_guard lock(mutex);
      if (ending || static_cast<int>(queue.size()) >= options.max_waiting) {
        response.status = 503;
        return;
      }
      ++counts.requests;
      counts.clips += job->input.x_t.dim(0);
      queue.push_back(std::move(job));
    }
    waiting.notify_one();
    try {
      response.set_content(encode_response(done.get(), card.id()), "application/octet-stream");
    } catch (const std::exception& error) {
      refuse(response, 500, error.what());
    }
  }

  /// The first that waits, and what may be evaluated with it. Empty when the server ends.
  std::vector<std::shared_ptr<Job>> take() {
    std::unique_lock lock(mutex);
    waiting.wait(lock, [&] { return ending || !queue.empty(); });
    std::vector<std::shared_ptr<Job>> jobs;
    if (queue.empty()) return jobs;
    jobs.push_back(queue.front());
    queue.pop_front();
    std::int64_t clips = jobs[0]->input.x_t.dim(0);
    for (auto it = queue.begin(); it != queue.end();) {
      const std::int64_t more = (*it)->input.x_t.dim(0);
      if (clips + more > options.max_clips || !go_together(jobs[0]->input, (*it)->input)) {
        ++it;
        continue;
      }
      clips += more;
      jobs.push_back(*it);
      it = queue.erase(it);
    }
    ++counts.evaluations;
    return jobs;
  }

  void evaluate() {
    for (;;) {
      const auto jobs = take();
      if (jobs.empty()) return;
      const auto part = [&](Tensor DenoiserInput::*member) {
        std::vector<const Tensor*> parts;
        for (const auto& job : jobs) parts.push_back(&(job->input.*member));
        return concatenate(parts);
      };
      try {
        const Tensor all = denoiser.predict(
            jobs.size() == 1 ? jobs[0]->input
                             : DenoiserInput{
                                   part(&DenoiserInput::x_t), part(&DenoiserInput::t), part(&DenoiserInput::cond),
                                   part(&DenoiserInput::actions)});
        std::int64_t at = 0;
        for (const auto& job : jobs) {
          const std::int64_t b = job->input.x_t.dim(0);
          job->done.set_value(all.slice(at, at + b));
          at += b;
        }
      } catch (...) {
        for (const auto& job : jobs) job->done.set_exception(std::current_exception());
      }
    }
  }
};

DenoiserServer::DenoiserServer(Denoiser& denoiser, ModelCard card, const ServerOptions& options)
    : impl_(std::make_unique<Impl>(denoiser, std::move(card), options)) {
  Impl& s = *impl_;
  check<UsageError>(
      is_loopback(options.host) || !options.token.empty(),
      "serve-denoiser: --host {}: others could reach it | set a token (AVID_BASE_TOKEN), or keep 127.0.0.1",
      options.host);
  s.http.set_payload_max_length(std::size_t{1} << 30);
  const auto limit = std::chrono::microseconds(static_cast<std::int64_t>(options.timeout_s * 1e6));
  s.http.set_read_timeout(limit);
  s.http.set_write_timeout(limit);
  s.http.set_tcp_nodelay(true);
  // As many connections as may wait: a thread that waits for its turn costs nothing else.
  s.http.new_task_queue = [n = options.max_waiting] {
    return new httplib::ThreadPool(static_cast<std::size_t>(std::max(n, 2)));
  };
  s.http.Get("/v1/info", [&s](const httplib::Request& request, httplib::Response& response) {
    if (s.allowed(request, response)) response.set_content(s.card.to_text(), "text/plain");
  });
  s.http.Post("/v1/predict", [&s](const httplib::Request& request, httplib::Response& response) {
    if (s.allowed(request, response)) s.predict(request, response);
  });
  // The default would let two servers share a port and the requests between them.
  s.http.set_socket_options([](socket_t socket) {
    const int on = 1;
    setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  });
  if (options.port == 0) {
    s.port = s.http.bind_to_any_port(options.host);
    check<Error>(s.port > 0, "serve-denoiser: {}: no free port | is the address this machine's?", options.host);
  } else {
    s.port = options.port;
    check<Error>(
        s.http.bind_to_port(options.host, options.port),
        "serve-denoiser: {}:{}: taken, or not an address of this machine | choose another --port", options.host,
        options.port);
  }
  // Threads are set per thread: the evaluator works with as many as whoever made the server.
  s.evaluator = std::thread([&s, threads = kernels::num_threads()] {
    kernels::set_num_threads(threads);
    s.evaluate();
  });
}

DenoiserServer::~DenoiserServer() {
  stop();
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->ending = true;
  }
  impl_->waiting.notify_all();
  if (impl_->listener.joinable()) impl_->listener.join();
  if (impl_->evaluator.joinable()) impl_->evaluator.join();
}

int DenoiserServer::port() const { return impl_->port; }
std::string DenoiserServer::url() const { return fmt::format("http://{}:{}", impl_->options.host, impl_->port); }
void DenoiserServer::run() { impl_->http.listen_after_bind(); }

void DenoiserServer::start() {
  impl_->listener = std::thread([this] { run(); });
  while (!impl_->http.is_running()) std::this_thread::yield();
}

void DenoiserServer::stop() {
  if (impl_->http.is_running()) impl_->http.stop();
}

DenoiserServer::Counts DenoiserServer::counts() const {
  const std::lock_guard lock(impl_->mutex);
  return impl_->counts;
}

}  // namespace avid::diffusion
