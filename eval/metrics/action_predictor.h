// eval/metrics/action_predictor.h -- Action Error Ratio of generated clips under a trained classifier
#pragma once

#include "eval/metrics/action_error.h"
#include "models/action_classifier.h"

namespace avid::eval {

/// How well the classifier reads the given actions off clips that continue conditioning frames.
///
/// Shapes   cond [N,K,S,S,3] u8, clips [N,T,S,S,3] u8 in the classifier's K and S; actions [N,T] i64, the action that
///          leads to each frame: the ones the clips were generated with, for real clips too.
/// Errors   ShapeError when frames or sizes are not those of the classifier; score_actions' errors.
ActionScores predict_actions(
    const ActionClassifier& classifier, const Tensor& cond, const Tensor& clips, const Tensor& actions);

}  // namespace avid::eval
