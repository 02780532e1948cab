// diffusion/served/server.h -- offers a Denoiser to other processes over HTTP (protocol.h)
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "diffusion/served/protocol.h"

namespace avid::diffusion {

struct ServerOptions {
  std::string host = "127.0.0.1";
  int port = 0;                 ///< 0: any free one
  std::string token = {};       ///< empty: none wanted. Needed unless host is a loopback address.
  std::int64_t max_clips = 64;  ///< of one request, and of one evaluation
  double timeout_s = 60;        ///< for reading a request and writing an answer
  int max_waiting = 64;         ///< requests that may wait; more are told to come back (503)
};

/// Serves until stopped. Requests that wait together, of the same frames and size, are evaluated together, up to
/// max_clips; each request's own clips stay in one evaluation.
///
/// Threads  predictions are made one at a time, on one thread of its own; predict() need not be reentrant.
/// Errors   the constructor: UsageError for a host that others can reach without a token; Error when the address is
///          taken. A request that is wrong gets one line and status 400, 401, 409 (other weights) or 413; the server
///          goes on. When the network itself fails: 500 and its message.
class DenoiserServer {
 public:
  /// `denoiser` must outlive the server; `card` describes it.
  DenoiserServer(Denoiser& denoiser, ModelCard card, const ServerOptions& options);
  /// Stops.
  ~DenoiserServer();
  DenoiserServer(const DenoiserServer&) = delete;
  DenoiserServer& operator=(const DenoiserServer&) = delete;

  int port() const;
  std::string url() const;
  /// Blocks until stop() is called from another thread (or a signal handler's thread).
  void run();
  /// Starts answering in the background.
  void start();
  void stop();
  struct Counts {
    std::int64_t requests = 0, clips = 0, evaluations = 0, refused = 0;
  };
  Counts counts() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// 127.x.x.x, ::1 or localhost.
bool is_loopback(const std::string& host);

}  // namespace avid::diffusion
