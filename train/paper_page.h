// train/paper_page.h -- the parts of the report's page that are pictures; paper_report_html.cpp puts the page together
#pragma once

#include <filesystem>
#include <string>

#include <nlohmann/json_fwd.hpp>

namespace avid::train {

/// "coinrun500k" -> "CoinRun 500k".
std::string dataset_title(const std::string& key);

// Plots, from what paper_report says. Each is a <section>, or empty when nothing was measured for it.

/// Every metric against the frames of the training data: one line per method; the paper's numbers folded below.
std::string data_figures_html(const nlohmann::ordered_json& report);
/// Every metric against the FLOPs of the training, and those FLOPs as a table.
std::string compute_figures_html(const nlohmann::ordered_json& report);
/// The mean mask against the denoising step, by data set.
std::string mask_figures_html(const nlohmann::ordered_json& report);

// Pictures and videos out of folders that avid sample wrote, pictures/DATASET__METHOD.

/// The same clips by several methods, as one animation per clip.
std::string side_by_side_html(const std::filesystem::path& pictures);
/// Real frames, generated frames and masks of the adapters, below each other.
std::string mask_pictures_html(const std::filesystem::path& pictures);
/// Every folder's strip.png.
std::string strips_html(const nlohmann::ordered_json& report, const std::filesystem::path& pictures);

}  // namespace avid::train
