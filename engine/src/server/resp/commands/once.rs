//! `FLOTILLA.ONCE`: a write under a name that the client gives it, so that it can be sent again, by
//! another connection or another process, without being done twice.

use super::{Command, Context, Plan, Session, integer, plan_data};
use crate::server::resp::backend::Backend;
use crate::server::resp::codec::Arguments;
use crate::server::resp::error::CommandError;
use flotilla_shard::{Operation, Origin};

/// Where the wrapped command begins.
const COMMAND_INDEX: usize = 5;

pub(super) fn once<B: Backend>(
    context: &Context<B>,
    session: &Session,
    arguments: &Arguments,
) -> Result<Plan, CommandError> {
    debug_assert!(session.transaction.is_none(), "it cannot be part of a transaction");
    let number =
        |index| u64::try_from(integer(arguments, index)?).map_err(|_| CommandError::NOT_AN_INTEGER);
    let origin = Origin {
        session: number(1)?,
        session_born_ms: number(2)?,
        sequence: number(3)?,
        lowest_unacknowledged: number(4)?,
    };
    if origin.session == 0 || origin.sequence == 0 {
        return Err(CommandError::fixed("ERR the session and the sequence must be positive"));
    }
    if origin.lowest_unacknowledged > origin.sequence {
        return Err(CommandError::fixed(
            "ERR the lowest unacknowledged sequence must not exceed the sequence",
        ));
    }
    let name = arguments.get(COMMAND_INDEX);
    let wrapped = arguments.tail(COMMAND_INDEX);
    let Some(command) = Command::find(name) else {
        return Err(CommandError::unknown_command(name, wrapped.iter_from(1)));
    };
    if !command.spec().accepts(wrapped.len()) {
        return Err(CommandError::arity(command.spec().name));
    }
    match plan_data(context, command, &wrapped) {
        Some(Ok(Plan::Single { operation: operation @ Operation::Write(_), shape })) => {
            Ok(Plan::Once { origin, operation, shape })
        }
        Some(Err(error)) => Err(error),
        _ => Err(CommandError::request(format!(
            "ERR {} is not one write on the keys of one shard and cannot be done once",
            command.spec().name
        ))),
    }
}
