//! Answers the collector's questions from what the device knows.

use std::fmt;
use std::sync::Arc;

use oprofile_device::{Device, Kernel};
use oprofile_session::{CookieTarget, GuestNames, ImageKind, KernelImage, Symbol, SymbolKind};
use vm_memory::GuestMemoryMmap;

/// What the kernel is called below `/boot` in a session.
const KERNEL_NAME: &str = "vmlinux";

/// Names of the guest, from the device. Snapshots of the kernel and its modules are kept from read to read, since the
/// collector asks for each kernel sample.
pub struct DeviceNames {
    device: Arc<Device<GuestMemoryMmap>>,
    kernel: Option<Arc<Kernel>>,
    images: Vec<Arc<KernelImage>>,
}

impl fmt::Debug for DeviceNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceNames")
            .field("images", &self.images.len())
            .finish_non_exhaustive()
    }
}

impl DeviceNames {
    /// Names that `device` knows.
    pub fn new(device: Arc<Device<GuestMemoryMmap>>) -> Self {
        Self {
            device,
            kernel: None,
            images: Vec::new(),
        }
    }

    /// Takes a new snapshot of the kernel if it changed; call it before each batch of words.
    pub fn refresh(&mut self) {
        let kernel = self.device.kernel();
        let same = match (&self.kernel, &kernel) {
            (Some(known), Some(new)) => Arc::ptr_eq(known, new),
            (None, None) => true,
            _ => false,
        };
        if !same {
            self.images = kernel.as_deref().map(images).unwrap_or_default();
            self.kernel = kernel;
        }
    }
}

/// The kernel, then its modules, loaded ones first.
fn images(kernel: &Kernel) -> Vec<Arc<KernelImage>> {
    let symbols = |list: &[oprofile_device::kernel::Symbol]| -> Vec<Symbol> {
        let symbol = |symbol: &oprofile_device::kernel::Symbol| Symbol {
            address: symbol.address,
            size: u64::from(symbol.size),
            kind: SymbolKind::Function,
            name: symbol.name.to_vec(),
        };
        list.iter().map(symbol).collect()
    };
    let name = match kernel.release.as_slice() {
        b"" => KERNEL_NAME.into(),
        release => [KERNEL_NAME.as_bytes(), b"-", release].concat(),
    };
    let core = KernelImage {
        name,
        kind: ImageKind::Kernel,
        start: kernel.start,
        end: kernel.end,
        symbols: symbols(&kernel.symbols),
    };
    let modules = kernel.modules.iter().map(|module| KernelImage {
        name: module.name.clone(),
        kind: ImageKind::Module,
        start: module.base,
        end: module.base.saturating_add(module.size),
        symbols: symbols(&module.symbols),
    });
    std::iter::once(core).chain(modules).map(Arc::new).collect()
}

impl GuestNames for DeviceNames {
    fn cookie(&self, cookie: u64) -> Option<CookieTarget> {
        use oprofile_device::CookieTarget as Known;
        Some(match self.device.cookie(cookie)? {
            Known::File { path, deleted, .. } => CookieTarget::File { path, deleted },
            Known::Anonymous {
                tgid,
                start,
                end,
                name,
            } => CookieTarget::Anonymous {
                tgid,
                start,
                end,
                name: String::from_utf8_lossy(&name).into_owned(),
            },
        })
    }

    fn kernel_image(&self, address: u64) -> Option<Arc<KernelImage>> {
        self.images
            .iter()
            .find(|image| (image.start..image.end).contains(&address))
            .cloned()
    }

    fn module_loaded(&mut self) {
        self.refresh();
    }
}
