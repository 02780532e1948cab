// kernels/device/wgmma_switch.h -- the kernels of one generation of devices can be left out
#pragma once

namespace avid::kernels {

/// Whether kernels on wgmma (files *_wgmma.cu) may be chosen; AVID_WGMMA=off in the environment says no. Convolutions
/// then take the kernels of compute capability 8.0 on every device: for comparing, and for going on where the others
/// fail. Read once. Throws GpuError for a value other than on and off.
bool wgmma_allowed();

/// The same said by the program itself. Not while kernels are being queued.
void allow_wgmma(bool allowed);

}  // namespace avid::kernels
