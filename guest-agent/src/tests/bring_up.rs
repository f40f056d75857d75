use oprofile_wire::control::{kind, status};

use super::fake::{Guest, description};
use crate::transport::{feature, status as device_status};
use crate::{
    BringUpError, Clocks, Control, InterruptCause, RequestError, SettingsError, Status, Transport,
    TransportError,
};

#[track_caller]
fn refused(guest: &Guest, expected: BringUpError) {
    assert_eq!(guest.bring_up().unwrap_err(), expected);
}

#[test]
fn device_is_set_up_in_the_order_of_the_specification() {
    let guest = Guest::new(2);
    let control = guest.bring_up().unwrap();
    let device = guest.device.borrow();
    assert_eq!(device.status, 1 | 2 | 4 | 8);
    assert_eq!(
        device.driver_features,
        feature::VERSION_1 | feature::EVENT_IDX
    );
    assert_eq!(control.vcpus(), 2);
    assert_eq!(control.status(), Status::Silent);
}

#[test]
fn other_hardware_is_left_alone() {
    for (register, value, expected) in [
        (0, 1, TransportError::NoTransport(1)),
        (1, 1, TransportError::UnsupportedVersion(1)),
        (2, 2, TransportError::WrongDevice(2)),
        (2, 0, TransportError::WrongDevice(0)),
    ] {
        let guest = Guest::new(1);
        guest.device.borrow_mut().identity[register] = value;
        refused(&guest, BringUpError::Transport(expected));
        assert_eq!(guest.device.borrow().status, 0);
    }
}

#[test]
fn device_id_is_a_parameter() {
    let guest = Guest::new(1);
    guest.device.borrow_mut().identity[2] = 42;
    assert!(Control::bring_up(&guest, guest.transport(), 42, 1).is_ok());
}

#[test]
fn foreign_configuration_marks_the_device_failed() {
    let guest = Guest::new(1);
    guest
        .device
        .borrow_mut()
        .change_config(|config| config.magic = 5.into());
    refused(&guest, BringUpError::Settings(SettingsError::WrongMagic(5)));
    assert_ne!(guest.device.borrow().status & device_status::FAILED, 0);
}

#[test]
fn other_protocol_version_is_refused() {
    let guest = Guest::new(1);
    guest
        .device
        .borrow_mut()
        .change_config(|config| config.version = 2.into());
    refused(
        &guest,
        BringUpError::Settings(SettingsError::UnsupportedVersion(2)),
    );
}

#[test]
fn settings_out_of_range_are_refused_by_name() {
    let guest = Guest::new(1);
    guest
        .device
        .borrow_mut()
        .change_config(|config| config.period_ns = 0.into());
    refused(
        &guest,
        BringUpError::Settings(SettingsError::OutOfRange("period_ns", 0)),
    );
    let guest = Guest::new(1);
    guest
        .device
        .borrow_mut()
        .change_config(|config| config.sample_buffer_bytes = 4095.into());
    refused(
        &guest,
        BringUpError::Settings(SettingsError::OutOfRange("sample_buffer_bytes", 4095)),
    );
}

#[test]
fn legacy_device_is_refused() {
    let guest = Guest::new(1);
    guest.device.borrow_mut().features = feature::EVENT_IDX;
    refused(
        &guest,
        BringUpError::Transport(TransportError::LegacyDevice),
    );
}

#[test]
fn features_not_confirmed_are_refused() {
    let guest = Guest::new(1);
    guest.device.borrow_mut().refuse_features = true;
    refused(
        &guest,
        BringUpError::Transport(TransportError::FeaturesRefused),
    );
}

#[test]
fn missing_memory_is_told() {
    let guest = Guest::new(2);
    guest.memory_left.set(40_000);
    refused(&guest, BringUpError::NoMemory);
}

#[test]
fn vcpus_without_a_queue_are_not_sampled() {
    let guest = Guest::new(3);
    guest
        .device
        .borrow_mut()
        .change_config(|config| config.vcpus = 2.into());
    let control = guest.sampling();
    assert_eq!(control.vcpus(), 2);
    guest.sample(2, 1, 10);
    let statistics = crate::Platform::with_cpu(&guest, 2, |agent| agent.statistics());
    assert_eq!(statistics.counters.received, 0);
}

#[test]
fn refused_hello_keeps_sampling_off_and_says_why() {
    let guest = Guest::new(1);
    guest
        .device
        .borrow_mut()
        .refusals
        .push((kind::HELLO, status::BAD_LAYOUT));
    let mut control = guest.bring_up().unwrap();
    let refusal = RequestError::Refused {
        status: status::BAD_LAYOUT,
        detail: 7,
    };
    assert_eq!(control.hello(&guest, &description()), Err(refusal));
    assert_eq!(control.status(), Status::Refused(refusal));
    assert_eq!(control.update(&guest), Ok(Clocks::Off));
    guest.sample(0, 1, 10);
    let statistics = crate::Platform::with_cpu(&guest, 0, |agent| agent.statistics());
    assert_eq!(statistics.counters.received, 0);
    assert_eq!(
        control.cpu_state(&guest, 0, true),
        Err(RequestError::NotIntroduced)
    );
}

#[test]
fn later_hello_can_be_accepted() {
    let guest = Guest::new(1);
    guest
        .device
        .borrow_mut()
        .refusals
        .push((kind::HELLO, status::BAD_KERNEL));
    let mut control = guest.bring_up().unwrap();
    assert!(control.hello(&guest, &description()).is_err());
    guest.device.borrow_mut().refusals.clear();
    assert_eq!(control.hello(&guest, &description()), Ok(()));
    assert_eq!(control.status(), Status::Ready);
}

#[test]
fn config_interrupt_rereads_the_settings() {
    let guest = Guest::new(1);
    let mut control = guest.sampling();
    guest
        .device
        .borrow_mut()
        .change_config(|config| config.period_ns = 250_000.into());
    let cause = guest.transport().acknowledge_interrupt();
    assert!(cause.config);
    assert_eq!(
        guest.transport().acknowledge_interrupt(),
        InterruptCause::default()
    );
    assert_eq!(
        control.update(&guest),
        Ok(Clocks::Run { period_ns: 250_000 })
    );
}

#[test]
fn settings_are_of_one_generation() {
    let guest = Guest::new(1);
    let mut control = guest.sampling();
    let new = 5 << 32 | 7;
    guest.device.borrow_mut().racing_periods.push_back(new);
    assert_eq!(control.update(&guest), Ok(Clocks::Run { period_ns: new }));
}

#[test]
fn restless_configuration_keeps_the_settings() {
    let guest = Guest::new(1);
    let mut control = guest.sampling();
    let before = *control.settings();
    guest.device.borrow_mut().racing_periods.extend(1..=16);
    assert_eq!(control.update(&guest), Err(SettingsError::Unstable));
    assert_eq!(*control.settings(), before);
}
