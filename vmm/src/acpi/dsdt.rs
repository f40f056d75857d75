//! The differentiated system description table: devices, and how to power off.

use acpi_tables::aml::{
    Device, EISAName, IO, Interrupt, Memory32Fixed, Name, Package, Path, ResourceTemplate, Scope,
};
use acpi_tables::sdt::Sdt;
use acpi_tables::{Aml, aml};

use super::{OEM, OEM_REVISION, OEM_TABLE, S5_TYPE};
use crate::boot::cmdline::MmioDevice;
use crate::devices::serial;
use crate::virtio::mmio::WINDOW_BYTES;

/// Bytes of a table's header.
const HEADER: u32 = 36;

/// Interrupt lines are raised by irqfds, which pulse them.
fn edge(gsi: u32) -> Interrupt {
    let (consumer, edge_triggered, active_low, shared) = (true, true, false, false);
    Interrupt::new(consumer, edge_triggered, active_low, shared, gsi)
}

/// The table for a machine with these virtio-mmio devices.
pub fn build(devices: &[MmioDevice]) -> Sdt {
    // Revision 2: integers are 64 bits wide.
    let mut table = Sdt::new(*b"DSDT", HEADER, 2, OEM, OEM_TABLE, OEM_REVISION);
    Name::new(
        Path::new("_S5_"),
        &Package::new(vec![&S5_TYPE, &aml::ZERO, &aml::ZERO, &aml::ZERO]),
    )
    .to_aml_bytes(&mut table);
    serial_port().to_aml(&mut table);
    for (index, device) in devices.iter().enumerate() {
        virtio_device(index, *device, &mut table);
    }
    table
}

struct SerialPort {
    ports: IO,
    interrupt: Interrupt,
}

fn serial_port() -> SerialPort {
    let (first, length) = (serial::COM1, serial::COM1_BYTES);
    SerialPort {
        ports: IO::new(first, first, 1, u8::try_from(length).unwrap_or(u8::MAX)),
        interrupt: edge(serial::COM1_GSI),
    }
}

impl SerialPort {
    fn to_aml(&self, table: &mut Sdt) {
        let identity = Name::new(Path::new("_HID"), &EISAName::new("PNP0501"));
        let number = Name::new(Path::new("_UID"), &aml::ZERO);
        let resources = Name::new(
            Path::new("_CRS"),
            &ResourceTemplate::new(vec![&self.ports, &self.interrupt]),
        );
        let device = Device::new(Path::new("COM1"), vec![&identity, &number, &resources]);
        Scope::new(Path::new("\\_SB_"), vec![&device]).to_aml_bytes(table);
    }
}

/// A device as Linux's virtio_mmio driver finds it (`LNRO0005`).
fn virtio_device(index: usize, device: MmioDevice, table: &mut Sdt) {
    let identity = Name::new(Path::new("_HID"), &"LNRO0005");
    let number = Name::new(Path::new("_UID"), &index);
    // Reads and writes do not touch memory.
    let coherent = Name::new(Path::new("_CCA"), &aml::ONE);
    let low = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
    let resources = Name::new(
        Path::new("_CRS"),
        &ResourceTemplate::new(vec![
            &Memory32Fixed::new(true, low(device.address), low(WINDOW_BYTES)),
            &edge(device.gsi),
        ]),
    );
    let name = format!("V{index:03X}");
    let device = Device::new(
        Path::new(&name),
        vec![&identity, &number, &coherent, &resources],
    );
    Scope::new(Path::new("\\_SB_"), vec![&device]).to_aml_bytes(table);
}
