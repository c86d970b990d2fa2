/** Why a job failed that was not finished in time. */
export const NOT_IN_TIME = 'Not finished in time';
