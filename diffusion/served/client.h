// diffusion/served/client.h -- a Denoiser in another process, reached over HTTP
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "diffusion/denoiser.h"
#include "diffusion/served/protocol.h"

namespace avid::diffusion {

struct ServedOptions {
  std::string token = {};   ///< sent as "Authorization: Bearer TOKEN"
  double timeout_s = 120;   ///< for one answer
  double patience_s = 120;  ///< how long a server that is away, starting or busy is asked again
  double quiet_s = 3;       ///< after which `say` is told that it waits, and when it no longer has to
  std::function<void(const std::string& line)> say = {};  ///< may be empty
  /// From the environment: AVID_BASE_TOKEN, AVID_BASE_TIMEOUT, AVID_BASE_PATIENCE (seconds); `say` writes to stderr.
  /// Throws UsageError.
  static ServedOptions from_environment();
};

/// True for "http://host:port", which is then read as a server instead of a file.
bool is_served(const std::string& place);

/// Of the library behind client and server.
std::string httplib_version();

/// Asks the server at `url` for every prediction. Numbers are those of the served network in its own process: f32 goes
/// over the wire as it is. Inputs on a device go through the host and their prediction comes back to it, so a step with
/// a served base cannot be recorded as a graph.
///
/// Errors   every failure is one line that names the server. At once: not such a server, wrong token, answers of
///          another shape, damaged, not finite, or from other weights. After `patience_s` of asking again: nobody
///          there, no answer in time, busy.
class ServedDenoiser final : public Denoiser {
 public:
  /// Asks for the model card.
  explicit ServedDenoiser(const std::string& url, const ServedOptions& options = ServedOptions::from_environment());
  ~ServedDenoiser() override;

  const ModelCard& card() const { return card_; }
  const std::string& url() const { return url_; }
  Tensor predict(const DenoiserInput& input) override;
  Objective objective() const override { return card_.objective; }

 private:
  struct Connection;

  std::string url_;
  ServedOptions options_;
  std::unique_ptr<Connection> connection_;
  ModelCard card_;
};

}  // namespace avid::diffusion
