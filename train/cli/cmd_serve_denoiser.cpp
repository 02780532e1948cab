// train/cli/cmd_serve_denoiser.cpp -- avid serve-denoiser: a base's predictions for other processes
#include <signal.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <thread>

#include "diffusion/served/client.h"
#include "diffusion/served/server.h"
#include "kernels/threads.h"
#include "tensor/io/json.h"
#include "train/cli/command.h"
#include "train/frozen_base.h"

namespace avid::cli {
namespace {

struct Options {
  std::string base, name, schedule, objective, device = "cpu";
  std::int64_t timesteps = 0;
  diffusion::ServerOptions server{.port = 8321};
  int threads = 0;
  bool json = false;
};

/// A network on a device, asked and answering in host memory.
class FromHost final : public diffusion::Denoiser {
 public:
  FromHost(diffusion::Denoiser& inner, Device device) : inner_(inner), device_(device) {}
  Tensor predict(const diffusion::DenoiserInput& in) override {
    return inner_.predict({in.x_t.to(device_), in.t, in.cond.to(device_), in.actions}).to(Device{});
  }
  diffusion::Objective objective() const override { return inner_.objective(); }

 private:
  diffusion::Denoiser& inner_;
  Device device_;
};

diffusion::ModelCard card_of(const train::FrozenBase& base, const Options& options) {
  const auto first = [](const std::string& a, const std::string& b, const char* otherwise) {
    return !a.empty() ? a : !b.empty() ? b : std::string(otherwise);
  };
  diffusion::ModelCard card;
  card.name = !options.name.empty() ? options.name : std::filesystem::path(base.source).filename().string();
  card.sha256 = base.sha256;
  card.objective = base.denoiser->objective();
  card.timesteps = options.timesteps != 0 ? options.timesteps : base.timesteps != 0 ? base.timesteps : 200;
  try {  // a schedule that no client could make is refused here, not there
    card.schedule = diffusion::parse_schedule(first(options.schedule, base.schedule, "sigmoid"));
    diffusion::Schedule(card.schedule, card.timesteps);
  } catch (const ConfigError& error) {
    throw UsageError(error.what());
  }
  card.cond_frames = base.cond_frames;
  card.multiple = base.multiple;
  card.parameters = base.parameters;
  card.frames = base.frames;
  card.size = base.size;
  const VideoSize video{
      1, base.frames != 0 ? base.frames : 8, base.size != 0 ? base.size : 64, base.size != 0 ? base.size : 64};
  card.flops_per_pixel = base.forward_flops(video) / static_cast<double>(video.frames * video.height * video.width);
  return card;
}

void serve(Options& options) {
  check<UsageError>(
      !diffusion::is_served(options.base), "serve-denoiser: --base: {} is served already | give its weights file",
      options.base);
  // SIGINT and SIGTERM are taken by this thread alone; all that are made from here on inherit the block.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  if (const char* token = std::getenv("AVID_BASE_TOKEN")) options.server.token = token;
  if (options.threads > 0) kernels::set_num_threads(options.threads);
  const Device device = Device::parse(options.device);
  train::FrozenBase base = train::open_base(options.base, options.objective);
  base.place(device, DType::f32);

  FromHost on_device(*base.denoiser, device);
  diffusion::Denoiser& denoiser = device.is_gpu() ? static_cast<diffusion::Denoiser&>(on_device) : *base.denoiser;
  diffusion::DenoiserServer server(denoiser, card_of(base, options), options.server);
  server.start();
  const diffusion::ModelCard card = card_of(base, options);
  if (options.json) {
    const Json json = {
        {"url", server.url()},
        {"port", server.port()},
        {"name", card.name},
        {"sha256", card.sha256},
        {"device", device.describe()}};
    print_json(json);
  } else {
    std::printf(
        "%s serves %s, %.2fM parameters, %d conditioning frames, on %s%s\nuse it with --base %s or base.checkpoint = "
        "\"%s\"; "
        "Ctrl-C ends it\n",
        server.url().c_str(), card.name.c_str(), static_cast<double>(card.parameters) / 1e6,
        static_cast<int>(card.cond_frames), device.describe().c_str(),
        options.server.token.empty() ? "" : ", to those with the token", server.url().c_str(), server.url().c_str());
  }
  std::fflush(stdout);
  int received = 0;
  sigwait(&signals, &received);
  server.stop();
  const diffusion::DenoiserServer::Counts counts = server.counts();
  std::fprintf(
      stderr, "served %lld requests, %lld clips in %lld evaluations; refused %lld\n",
      static_cast<long long>(counts.requests), static_cast<long long>(counts.clips),
      static_cast<long long>(counts.evaluations), static_cast<long long>(counts.refused));
}

const CommandRegistrar registrar(
    "serve-denoiser", "offer a base's predictions to other processes, without its weights", [](Command* command) {
      auto options = std::make_shared<Options>();
      command->add_option("--base", options->base, "base model: weights or its run folder")->type_name("F")->required();
      command->add_option("--port", options->server.port, "TCP port; 0: any free one")
          ->range(0, 65535)
          ->capture_default_str();
      command
          ->add_option(
              "--host", options->server.host,
              "address to listen on; other than loopback needs a token in the environment variable AVID_BASE_TOKEN")
          ->capture_default_str();
      command->add_option("--max-clips", options->server.max_clips, "clips of one request and of one evaluation")
          ->range(1, 4096)
          ->capture_default_str();
      command->add_option("--timeout", options->server.timeout_s, "seconds for reading a request or writing an answer")
          ->positive()
          ->capture_default_str();
      command->add_option(
          "--name", options->name, "what clients are told the model is called (default: the file's name)");
      command
          ->add_option("--schedule", options->schedule, "linear, cosine or sigmoid (default: as trained, else sigmoid)")
          ->one_of({"linear", "cosine", "sigmoid"});
      command->add_option("--timesteps", options->timesteps, "diffusion steps N (default: as trained, else 200)")
          ->range(1, 1'000'000);
      command->add_option("--objective", options->objective, "pred_noise, pred_x0 or pred_v (default: as trained)")
          ->one_of({"pred_noise", "pred_x0", "pred_v"});
      command->add_option("--device", options->device, "where the base computes: cpu, cuda, cuda:N or sim")
          ->device_name()
          ->capture_default_str();
      command->add_option("--threads", options->threads, "CPU threads (default: all)")->range(1, 4096);
      command->add_flag("--json", options->json, "print address and model as one JSON line");
      set_example(command, "avid serve-denoiser --base data/pretrained/base32.safetensors --port 8321");
      command->callback([options] { serve(*options); });
    });

}  // namespace
}  // namespace avid::cli
