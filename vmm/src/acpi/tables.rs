//! The static tables, and all of them put into guest memory.

use acpi_tables::Aml;
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{
    EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic,
};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::xsdt::XSDT;
use thiserror::Error;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use super::{OEM, OEM_REVISION, OEM_TABLE, RSDP, TABLES, dsdt};
use crate::boot::cmdline::MmioDevice;
use crate::devices::power;

const IOAPIC: u32 = 0xfec0_0000;
const LAPIC: u32 = 0xfee0_0000;
/// IAPC_BOOT_ARCH: what a PC has and this machine has not, video and a real-time clock (ACPI 6.5, table 5.10). Linux would wait
/// seconds for the latter.
const NO_VGA: u16 = 1 << 2;
const NO_RTC: u16 = 1 << 5;
/// Tables begin at multiples of this.
const ALIGNMENT: u64 = 64;

/// Why there are no tables.
#[derive(Debug, Error)]
pub enum TableError {
    /// Too many devices.
    #[error("The ACPI tables of {0} devices do not fit below 1 MiB")]
    TooLong(usize),
    /// Guest memory has no room there.
    #[error("Cannot write the ACPI tables into guest memory")]
    Write(#[source] GuestMemoryError),
}

/// What the tables are about.
#[derive(Clone, Copy, Debug)]
pub struct Machine<'a> {
    /// vCPUs; their numbers are their APIC ids.
    pub cpus: u8,
    /// virtio-mmio devices.
    pub devices: &'a [MmioDevice],
}

/// Writes the tables; the root pointer lies at [`RSDP`].
///
/// # Errors
/// When there is no room for them.
pub fn write(memory: &GuestMemoryMmap, machine: Machine<'_>) -> Result<(), TableError> {
    for (address, table) in place(machine)? {
        memory
            .write_slice(&table, GuestAddress(address))
            .map_err(TableError::Write)?;
    }
    Ok(())
}

/// The tables, each with its GPA.
fn place(machine: Machine<'_>) -> Result<Vec<(u64, Vec<u8>)>, TableError> {
    let mut placed = Vec::new();
    let mut next = RSDP + ALIGNMENT;
    let mut put = |table: &dyn Aml| {
        let mut bytes = Vec::new();
        table.to_aml_bytes(&mut bytes);
        let address = next;
        next = (next + bytes.len() as u64).next_multiple_of(ALIGNMENT);
        placed.push((address, bytes));
        address
    };
    let dsdt = put(&dsdt::build(machine.devices));
    let fixed = put(&fixed_description(dsdt));
    let interrupts = put(&interrupt_controllers(machine.cpus));
    let mut root = XSDT::new(OEM, OEM_TABLE, OEM_REVISION);
    root.add_entry(fixed);
    root.add_entry(interrupts);
    let root = put(&root);
    if next > TABLES.end {
        return Err(TableError::TooLong(machine.devices.len()));
    }
    let mut pointer = Vec::new();
    Rsdp::new(OEM, root).to_aml_bytes(&mut pointer);
    placed.push((RSDP, pointer));
    Ok(placed)
}

/// FADT: no fixed hardware but the registers of sleep and reset (ACPI 6.5, 4.8.3.7).
fn fixed_description(dsdt: u64) -> impl Aml {
    let port = |port: u16| {
        GAS::new(
            AddressSpace::SystemIo,
            8,
            0,
            AccessSize::ByteAccess,
            u64::from(port),
        )
    };
    let mut table = FADTBuilder::new(OEM, OEM_TABLE, OEM_REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        .flag(Flags::Headless);
    table.sleep_control_reg = port(power::SLEEP_CONTROL);
    table.sleep_status_reg = port(power::SLEEP_STATUS);
    table.reset_reg = port(power::I8042_COMMAND);
    table.reset_value = power::PULSE_RESET;
    table.iapc_boot_arch = (NO_VGA | NO_RTC).into();
    table.finalize()
}

fn interrupt_controllers(cpus: u8) -> impl Aml {
    let lapic = LocalInterruptController::Address(LAPIC);
    let mut table = MADT::new(OEM, OEM_TABLE, OEM_REVISION, lapic);
    for id in 0..cpus {
        table.add_structure(ProcessorLocalApic::new(id, id, EnabledStatus::Enabled));
    }
    // Its id is told by nobody, so any that no processor has.
    table.add_structure(IoApic::new(u8::MAX, IOAPIC, 0));
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICE: MmioDevice = MmioDevice {
        address: 0xd000_0000,
        gsi: 5,
    };

    fn tables(cpus: u8, devices: &[MmioDevice]) -> Vec<(u64, Vec<u8>)> {
        place(Machine { cpus, devices }).unwrap()
    }

    fn find<'a>(tables: &'a [(u64, Vec<u8>)], signature: &[u8]) -> &'a (u64, Vec<u8>) {
        tables
            .iter()
            .find(|(_, table)| table.starts_with(signature))
            .unwrap()
    }

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    #[test]
    fn every_table_has_its_length_and_checksum() {
        let tables = tables(8, &[DEVICE; 4]);
        for (_, table) in &tables[..tables.len() - 1] {
            let length = u32::from_le_bytes(table[4..8].try_into().unwrap());
            assert_eq!(length as usize, table.len());
            assert_eq!(sum(table), 0, "{:?}", &table[..4]);
        }
        let (address, pointer) = tables.last().unwrap();
        assert_eq!((*address, &pointer[..8]), (RSDP, &b"RSD PTR "[..]));
        assert_eq!((sum(&pointer[..20]), sum(pointer)), (0, 0));
    }

    #[test]
    fn root_pointer_leads_to_all_tables() {
        let tables = tables(1, &[DEVICE]);
        let word =
            |table: &[u8], at: usize| u64::from_le_bytes(table[at..at + 8].try_into().unwrap());
        let (root, entries) = find(&tables, b"XSDT");
        let (_, pointer) = tables.last().unwrap();
        assert_eq!(word(pointer, 24), *root);
        let (fixed, description) = find(&tables, b"FACP");
        assert_eq!(word(entries, 36), *fixed);
        assert_eq!(word(entries, 44), find(&tables, b"APIC").0);
        // X_DSDT (ACPI 6.5, table 5.9).
        assert_eq!(word(description, 140), find(&tables, b"DSDT").0);
    }

    #[test]
    fn every_processor_is_listed_with_its_apic_id() {
        let tables = tables(3, &[]);
        let (_, madt) = find(&tables, b"APIC");
        for id in 0..3 {
            let entry = [0, 8, id, id, 1, 0, 0, 0];
            assert!(madt.windows(8).any(|window| window == entry), "{id}");
        }
    }

    #[test]
    fn every_device_has_its_window_and_line() {
        let second = MmioDevice {
            address: 0xd000_1000,
            gsi: 6,
        };
        let tables = tables(1, &[DEVICE, second]);
        let (_, dsdt) = find(&tables, b"DSDT");
        let holds = |part: &[u8]| dsdt.windows(part.len()).any(|window| window == part);
        assert!(holds(b"V000") && holds(b"V001") && holds(b"LNRO0005"));
        for device in [DEVICE, second] {
            assert!(holds(&u32::try_from(device.address).unwrap().to_le_bytes()));
            assert!(holds(&device.gsi.to_le_bytes()));
        }
    }

    #[test]
    fn devices_that_do_not_fit_are_refused() {
        let many = vec![DEVICE; 4096];
        let error = place(Machine {
            cpus: 1,
            devices: &many,
        })
        .unwrap_err();
        assert!(matches!(error, TableError::TooLong(4096)));
    }
}
