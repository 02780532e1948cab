// train/cli/cmd_forward.cpp -- avid forward: evaluates networks on tensors from a file and writes every output
#include <cstdio>
#include <memory>

#include "models/audit.h"
#include "tensor/io/json.h"
#include "tensor/io/safetensors.h"
#include "train/cli/command.h"
#include "train/cli/route_options.h"

namespace avid::cli {
namespace {

struct Options {
  AuditRequest request;
  std::string output, schedule = "sigmoid", objective = "pred_x0", dtype = "f32", device = "cpu", control_order;
  double poe = 0, action_cfg = 0;
  bool json = false;
  std::shared_ptr<RouteOptions> routes;
};

DType parse_compute_dtype(const std::string& text) {
  if (text == "f32") return DType::f32;
  if (text == "f64" || text == "bf16") return text == "f64" ? DType::f64 : DType::bf16;
  fail<UsageError>("forward: --dtype: expected f32, f64 or bf16, got {}", text);
}

void forward(Options& options) {
  AuditRequest& request = options.request;
  // Words that only a typing error explains are wrong usage, not a failed run.
  try {
    request.schedule = diffusion::parse_schedule(options.schedule);
    request.objective = diffusion::parse_objective(options.objective);
  } catch (const ConfigError& error) {
    throw UsageError(error.what());
  }
  check<UsageError>(
      options.control_order.empty() || !request.controlnet.empty(),
      "forward: --control-order: it goes with --controlnet | leave it out");
  if (!options.control_order.empty()) request.control_order = parse_control_order(options.control_order);
  // bf16 is a way to keep activations; the weights stay f32.
  request.activations = parse_compute_dtype(options.dtype);
  request.dtype = request.activations == DType::f64 ? DType::f64 : DType::f32;
  request.device = Device::parse(options.device);
  use_routes(*options.routes, request.device);
  check<UsageError>(
      request.dtype != DType::f64 || !request.device.is_gpu(),
      "forward: --dtype f64 --device {}: devices compute in f32 and bf16 | use --device cpu", options.device);

  const NamedTensors outputs = audit(request);
  save_safetensors(
      options.output, outputs,
      {{"program", std::string("avid ") + AVID_VERSION},
       {"command", "forward"},
       {"dtype", options.dtype},
       {"device", request.device.describe()},
       {"schedule", options.schedule},
       {"timesteps", std::to_string(request.num_steps)},
       {"objective", options.objective}});
  Json report;
  report["output"] = options.output;
  report["device"] = request.device.describe();
  if (!options.json) std::printf("%-22s %s\n", "device", request.device.describe().c_str());
  report["tensors"] = Json::object();
  for (const auto& [name, tensor] : outputs) {
    if (!options.json) {
      // Gradients are many; the file has them.
      if (name.starts_with("grad.")) continue;
      if (tensor.rank() == 0) {
        std::printf("%-22s %.9g\n", name.c_str(), tensor.item());
      } else {
        std::printf("%-22s %s\n", name.c_str(), tensor.describe().c_str());
      }
    } else if (tensor.rank() == 0) {
      report["tensors"][name] = tensor.item();
    } else {
      report["tensors"][name] = tensor.shape().to_vector();
    }
  }
  if (options.json) print_json(report);
}

const CommandRegistrar registrar(
    "forward", "evaluate networks on tensors from a file and write every output", [](Command* command) {
      auto options = std::make_shared<Options>();
      AuditRequest& request = options->request;
      command->add_option("--base", request.base, "U-Net weights; runs without actions when another network is given")
          ->type_name("F");
      command->add_option("--adapter", request.adapter, "AVID adapter: adapter.*, mixture_conv.*")->type_name("F");
      command->add_option("--controlnet", request.controlnet, "ControlNet or ControlNetSmaller of the base")
          ->type_name("F");
      command
          ->add_option(
              "--control-order", options->control_order,
              "how a ControlNet's middle outputs enter the base: reversed, as in the original, or natural "
              "(default: reversed)")
          ->one_of({"reversed", "natural"});
      command->add_option("--classifier", request.classifier, "action classifier")->type_name("F");
      command->add_option("--action-model", request.action_model, "action-conditioned U-Net to mix with the base")
          ->type_name("F");
      Option* poe = command->add_option("--poe", options->poe, "product of experts with this weight")->type_name("W");
      Option* cfg =
          command->add_option("--action-cfg", options->action_cfg, "action guidance with this weight")->type_name("W");
      command->add_option("--input", request.input, "safetensors with x0, noise, x_t, t, actions, cond")
          ->type_name("F")
          ->required();
      command->add_option("--output", options->output, "safetensors with every output")->type_name("F")->required();
      command->add_option("--schedule", options->schedule, "linear, cosine or sigmoid")->capture_default_str();
      command->add_option("--timesteps", request.num_steps, "diffusion steps N")
          ->range(1, 1'000'000)
          ->capture_default_str();
      command->add_option("--objective", options->objective, "pred_noise, pred_x0 or pred_v")->capture_default_str();
      command->add_flag("--grads", request.grads, "also grad.<name> of the loss for every trained tensor");
      command
          ->add_option("--dtype", options->dtype, "f32, f64 (cpu only), or bf16: activations in bf16, weights in f32")
          ->capture_default_str();
      command->add_option("--device", options->device, "cpu, cuda, cuda:N or sim (the kernel simulator)")
          ->device_name()
          ->capture_default_str();
      options->routes = add_route_options(command);
      command->add_flag("--json", options->json, "print scalars and shapes as one JSON value");
      set_example(
          command,
          "avid forward --base base.safetensors --adapter adapter.safetensors --input input.safetensors --output "
          "out.safetensors --grads");
      command->callback([options, poe, cfg] {
        if (poe->given()) options->request.poe = options->poe;
        if (cfg->given()) options->request.action_cfg = options->action_cfg;
        forward(*options);
      });
    });

}  // namespace
}  // namespace avid::cli
