// kernels/device/wgmma_switch.h -- the kernels of one generation of devices can be left out, and parts of them
#pragma once

namespace avid::kernels {

/// Whether kernels on wgmma (files *_wgmma.cu) may be chosen; AVID_WGMMA=off in the environment says no. The
/// kernels of compute capability 8.0 then run on every device: for comparing, and for going on where the others fail.
/// Read once. Throws GpuError for a value other than on and off.
bool wgmma_allowed();

/// The same said by the program itself. Not while kernels are being queued.
void allow_wgmma(bool allowed);

/// Whether these kernels may load tiles by tensor copies (TMA); AVID_TMA=off in the environment says no, and their
/// threads copy everything themselves. The same bits. Read once. Throws GpuError for a value other than on and off.
bool tma_allowed();
/// As allow_wgmma.
void allow_tma(bool allowed);

}  // namespace avid::kernels
