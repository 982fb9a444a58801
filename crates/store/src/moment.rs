//! `timestamptz` as `jiff::Timestamp`. sqlx speaks of chrono and time only, and neither is in this workspace.

use jiff::Timestamp;
use sqlx::{
    Decode, Encode, Postgres, Type,
    encode::IsNull,
    error::BoxDynError,
    postgres::{PgArgumentBuffer, PgTypeInfo, PgValueFormat, PgValueRef},
};

/// Microseconds from 1970 to 2000, where Postgres begins to count.
const EPOCH_2000_US: i64 = 946_684_800_000_000;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment(pub Timestamp);

impl Moment {
    pub(crate) fn of(moment: Option<Self>) -> Option<Timestamp> {
        moment.map(|m| m.0)
    }
}

impl Type<Postgres> for Moment {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_name("timestamptz")
    }
}

impl<'r> Decode<'r, Postgres> for Moment {
    fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
        match value.format() {
            PgValueFormat::Binary => {
                let bytes: [u8; 8] = value.as_bytes()?.try_into()?;
                let us = i64::from_be_bytes(bytes).checked_add(EPOCH_2000_US).ok_or("a time out of range")?;
                Ok(Self(Timestamp::from_microsecond(us)?))
            }
            // Statements with parameters are always answered in binary; ours are all of that kind.
            PgValueFormat::Text => Err("a time in text form".into()),
        }
    }
}

impl Encode<'_, Postgres> for Moment {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        let us = self.0.as_microsecond().checked_sub(EPOCH_2000_US).ok_or("a time out of range")?;
        buffer.extend_from_slice(&us.to_be_bytes());
        Ok(IsNull::No)
    }
}
