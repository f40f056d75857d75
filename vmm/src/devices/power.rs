//! Power-off by ACPI's sleep control register, or by the PM1a control register where q35 has it, and reset by the keyboard
//! controller.

use crate::bus::{BusDevice, Effect};
use crate::cpu::GuestEnd;

/// Port of the PM1a control register (q35: PM base 0x600 + 4).
pub const PM1A_CONTROL: u16 = 0x604;
/// The register's width in bytes.
pub const PM1A_BYTES: u16 = 2;

/// Port of the sleep control register (ACPI 6.5, 4.8.3.7), where the PM1 event block of other machines is.
pub const SLEEP_CONTROL: u16 = 0x600;
/// Port of the sleep status register behind it.
pub const SLEEP_STATUS: u16 = 0x601;
/// Number of both.
pub const SLEEP_BYTES: u16 = 2;
/// SLP_EN of the sleep control register. S5 is the only state that the tables offer.
const SLEEP_CONTROL_ENABLE: u8 = 1 << 5;

/// Ports of the keyboard controller: data, the system port between, command and status.
pub const I8042: u16 = 0x60;
/// Number of those ports.
pub const I8042_BYTES: u16 = 5;

/// SLP_EN: enter the sleep state. q35's S5 has type 0 and is the only one that there is here (ACPI 6.5, 4.8.3.2.1).
const SLEEP_ENABLE: u16 = 1 << 13;

/// Offset of the keyboard controller's command register.
const COMMAND: u64 = 4;
/// Port of that register.
pub const I8042_COMMAND: u16 = I8042 + 4;
/// Command: pulse the reset line.
pub const PULSE_RESET: u8 = 0xfe;

/// The registers of ACPI's hardware-reduced profile.
#[derive(Clone, Copy, Debug, Default)]
pub struct SleepControl;

impl BusDevice for SleepControl {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&self, offset: u64, data: &[u8]) -> Effect {
        match data {
            [value] if offset == 0 && value & SLEEP_CONTROL_ENABLE != 0 => {
                Effect::End(GuestEnd::PowerOff)
            }
            _ => Effect::None,
        }
    }
}

/// The PM1a control register.
#[derive(Clone, Copy, Debug, Default)]
pub struct PowerControl;

impl BusDevice for PowerControl {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&self, offset: u64, data: &[u8]) -> Effect {
        match data.try_into().map(u16::from_le_bytes) {
            Ok(value) if offset == 0 && value & SLEEP_ENABLE != 0 => {
                Effect::End(GuestEnd::PowerOff)
            }
            _ => Effect::None,
        }
    }
}

/// As much of a keyboard controller as it takes to reset a PC. Its status reads as 0: no input, ready for a command.
#[derive(Clone, Copy, Debug, Default)]
pub struct KeyboardController;

impl BusDevice for KeyboardController {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&self, offset: u64, data: &[u8]) -> Effect {
        if offset == COMMAND && data == [PULSE_RESET] {
            Effect::End(GuestEnd::Reset)
        } else {
            Effect::None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleep_enable_powers_off() {
        let power_off = PowerControl.write(0, &0x2000_u16.to_le_bytes());
        assert_eq!(power_off, Effect::End(GuestEnd::PowerOff));
    }

    #[test]
    fn other_writes_to_power_control_do_nothing() {
        for (offset, data) in [(0, &[0, 0x10][..]), (0, &[0x20]), (1, &[0x20]), (0, &[])] {
            assert_eq!(PowerControl.write(offset, data), Effect::None);
        }
    }

    #[test]
    fn sleep_control_powers_off_when_enabled() {
        let off = SleepControl.write(0, &[5 << 2 | 1 << 5]);
        assert_eq!(off, Effect::End(GuestEnd::PowerOff));
        for (offset, data) in [(0, &[5 << 2][..]), (1, &[1 << 5]), (0, &[1 << 5, 0])] {
            assert_eq!(SleepControl.write(offset, data), Effect::None);
        }
    }

    #[test]
    fn pulse_reset_resets() {
        let reset = KeyboardController.write(4, &[0xfe]);
        assert_eq!(reset, Effect::End(GuestEnd::Reset));
    }

    #[test]
    fn other_keyboard_commands_do_nothing() {
        for (offset, data) in [(0, [0xfe]), (4, [0xad]), (1, [0xfe])] {
            assert_eq!(KeyboardController.write(offset, &data), Effect::None);
        }
        let mut status = [0xff];
        KeyboardController.read(4, &mut status);
        assert_eq!(status, [0]);
    }
}
